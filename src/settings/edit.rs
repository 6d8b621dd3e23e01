//! Edits the text of a configuration file: one value is replaced, added or removed where it stands.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;

use toml::de::DeTable;

use crate::error::{Error, Exit};
use crate::settings::value::toml_string;
use crate::settings::{Input, Key, Layer, Settings};

/// What an edit makes of a configuration file.
#[derive(Debug)]
pub struct Edited {
    /// The whole text: the old one, byte for byte, if that says the same already.
    pub text: String,
    /// The value of the key in TOML syntax, without a proxy's password.
    pub shown: Option<String>,
}

/// Edits the `text` of the configuration file `path`: `key` gets `value`, a word as `--set` takes
/// it; without a value the key goes. Every other byte stays.
///
/// Fails over what is wrong with the value, or elsewhere in the file; not over what the file said of
/// the key itself, which this fixes. The result is read back, and refused if another key changed.
pub fn edit(path: &Path, text: &str, key: &Key, value: Option<&OsStr>) -> Result<Edited, Error> {
    let (stored, shown) = value.map(|word| read_word(key, word)).transpose()?.unzip();
    let before = Layer::from_toml(path, text)?;
    let (old, others_before) = said(&before, key);
    // Judged before the edit, so that an error names the line as it is in the file.
    let mut others = before;
    others.values.remove(key.name);
    Settings::resolve(&[others])?;

    let edited = splice(text, key, stored.as_deref());
    let layout = || {
        let what = format!("{}: the layout of [{}] is unusual", path.display(), key.section());
        Error::new(Exit::Config, what).hint("edit the file: one line for each key of the section")
    };
    let after = Layer::from_toml(path, &edited).map_err(|_| layout())?;
    let (new, others_after) = said(&after, key);
    Settings::resolve(&[after])?;
    if others_before != others_after || new.is_some() != stored.is_some() {
        return Err(layout());
    }
    Ok(Edited { text: if old == new { text.to_owned() } else { edited }, shown })
}

/// Returns what `layer` says of `key`, and of the others.
fn said(layer: &Layer, key: &Key) -> (Option<Input>, BTreeMap<&'static str, Input>) {
    let said = layer.values.iter().map(|(name, (input, _))| (*name, input.clone()));
    let mut others: BTreeMap<_, _> = said.collect();
    (others.remove(key.name), others)
}

/// Returns the value that `word` is for `key`, in TOML syntax: as it is stored, and as it may be shown.
fn read_word(key: &Key, word: &OsStr) -> Result<(String, String), Error> {
    let Some(text) = word.to_str() else {
        let what = format!("`{}`: the value is not UTF-8 text", key.name);
        let hint = "TOML files are UTF-8; the environment and `--set` take any bytes";
        return Err(Error::new(Exit::Config, what).hint(hint));
    };
    let layer = Layer::from_assignments(&[format!("{}={text}", key.name).into()])?;
    let settings = Settings::resolve(&[layer])?;
    let value = settings.show().into_iter().find(|(shown, ..)| shown.name == key.name);
    let shown = value.and_then(|(_, value, _)| value).unwrap_or_default();
    // A string is the word itself; what is shown of a proxy lacks the password.
    let is_string = shown.starts_with(['"', '\'']);
    Ok((if is_string { toml_string(word) } else { shown.clone() }, shown))
}

/// Returns `text` with `value` for `key`, or without the lines of the key.
fn splice(text: &str, key: &Key, value: Option<&str>) -> String {
    let (section, name) = key.name.split_once('.').unwrap_or(("", key.name));
    let document = DeTable::parse(text).map(|document| document.into_inner()).unwrap_or_default();
    let found = document.iter().find(|(own, _)| own.get_ref() == section);
    let entries = found.and_then(|(_, table)| table.get_ref().as_table());
    let old = entries.and_then(|entries| entries.iter().find(|(own, _)| own.get_ref() == name));
    let line_end = |at: usize| text[at..].find('\n').map_or(text.len(), |end| at + end + 1);
    let newline = if text.contains("\r\n") { "\r\n" } else { "\n" };
    let insert = |at: usize, lines: String| {
        let gap = if at == 0 || text[..at].ends_with('\n') { "" } else { newline };
        (at..at, format!("{gap}{lines}{newline}"))
    };
    let (place, new) = match (old, value, found) {
        // A section in the value's place stays, and is refused.
        (Some((_, old)), ..) if old.get_ref().is_table() => return text.to_owned(),
        (Some((_, old)), Some(value), _) => (old.span(), value.to_owned()),
        (Some((_, old)), None, _) => {
            // A key and the beginning of its value share a line.
            let start = text[..old.span().start].rfind('\n').map_or(0, |at| at + 1);
            (start..line_end(old.span().end), String::new())
        }
        (None, None, _) => return text.to_owned(),
        (None, Some(value), None) => {
            let blank = if text.is_empty() { "" } else { newline };
            insert(text.len(), format!("{blank}[{section}]{newline}{name} = {value}"))
        }
        (None, Some(value), Some((own, _))) => {
            let ends = entries.into_iter().flatten().map(|(_, value)| value.span().end);
            let is_header = text[..own.span().start].trim_end().ends_with('[');
            let name = if is_header { name } else { key.name };
            insert(line_end(ends.max().unwrap_or(own.span().end)), format!("{name} = {value}"))
        }
    };
    [&text[..place.start], &new, &text[place.end..]].concat()
}
