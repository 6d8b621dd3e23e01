//! Edits the text of a configuration file. A value is replaced or cut where it stands and a new one
//! put between: every other byte stays, be it of comments, blanks or line ends.

use std::ffi::{OsStr, OsString};
use std::ops::Range;
use std::path::Path;

use toml_edit::{Document, Item, TomlError, Value};

use crate::error::{Error, Exit};
use crate::settings::value::toml_string;
use crate::settings::{Key, Layer, Settings};

/// What an edit makes of a configuration file.
#[derive(Debug)]
pub struct Edited {
    /// The whole text: the old one, byte for byte, if that says the same already.
    pub text: String,
    /// The value of the key in TOML syntax, without a proxy's password.
    pub shown: Option<String>,
}

/// Edits the `text` of the configuration file `path`: `key` gets `value`, a word as `--set` takes
/// it; without a value the key goes. Comments on lines of their own stay, and so does a section
/// that becomes empty, since it may hold some.
///
/// # Errors
/// Whatever is wrong with the value, or with what else stands in the file. What the file said of
/// the key itself may be wrong: this is how it is mended.
pub fn edit(path: &Path, text: &str, key: &Key, value: Option<&OsStr>) -> Result<Edited, Error> {
    let value = value.map(|word| read_word(key, word)).transpose()?;
    let (stored, shown) = value.unzip();
    let before = Layer::from_toml(path, text)?;
    // Judged before the edit, so that an error names the line as it is in the file.
    let mut others = before.clone();
    others.values.remove(key.name);
    Settings::resolve(&[others])?;

    let edited = edit_text(text, key, stored.as_deref()).map_err(|error| {
        let what = format!("{}: {}", path.display(), error.message());
        Error::new(Exit::Config, what)
    })?;
    let after = Layer::from_toml(path, &edited)?;
    let said = [&before, &after].map(|layer| layer.values.get(key.name).map(|(input, _)| input));
    let says_the_same = said[0] == said[1];
    Settings::resolve(&[after])?;
    Ok(Edited { text: if says_the_same { text.to_owned() } else { edited }, shown })
}

/// The value that `word` is for `key`, in TOML syntax: as it is stored, and as it may be shown.
fn read_word(key: &Key, word: &OsStr) -> Result<(String, String), Error> {
    let assignment = [OsStr::new(key.name), OsStr::new("="), word];
    let assignment = assignment.into_iter().collect::<OsString>();
    let settings = Settings::resolve(&[Layer::from_assignments(&[assignment])?])?;
    if word.to_str().is_none() {
        let what = format!("`{}`: the value is not UTF-8 text", key.name);
        let hint = "TOML files are UTF-8; the environment and `--set` take any bytes";
        return Err(Error::new(Exit::Config, what).hint(hint));
    }
    let shown = settings
        .show()
        .into_iter()
        .find(|(shown, ..)| shown.name == key.name)
        .and_then(|(_, value, _)| value)
        .unwrap_or_default();
    // A string is the word itself; what is shown of a proxy lacks the password.
    let is_string = shown.starts_with(['"', '\'']);
    let stored = if is_string { toml_string(word) } else { shown.clone() };
    Ok((stored, shown))
}

/// `text` with `value` for `key`, or without the key.
fn edit_text(text: &str, key: &Key, value: Option<&str>) -> Result<String, TomlError> {
    let document = Document::parse(text)?;
    let (section, name) = key.name.split_once('.').unwrap_or(("", key.name));
    let found = document.get(section);
    let entry = found.and_then(|found| found.get(name));
    Ok(match (found, entry, value) {
        (_, Some(Item::Value(old)), Some(new)) => splice(text, place(old.span()), new),
        (None, _, Some(new)) => {
            let header = format!("[{section}]");
            let entry = format!("{name} = {new}");
            let lines = ["", &header, &entry];
            insert_lines(text, text.len(), &lines[usize::from(text.is_empty())..])
        }
        (Some(Item::Table(table)), None, Some(new)) => {
            let name = if table.is_dotted() { key.name } else { name };
            let header = place(table.span()).end;
            let entries = table.iter().map(|(_, item)| place(item.span()).end);
            let last = entries.fold(header, usize::max);
            insert_lines(text, next_line(text, last), &[&format!("{name} = {new}")])
        }
        (Some(Item::Table(_)), Some(Item::Value(old)), None) => {
            let place = place(old.span());
            // A key stands in one line with the beginning of its value.
            let start = text[..place.start].rfind('\n').map_or(0, |at| at + 1);
            splice(text, start..next_line(text, place.end), "")
        }
        (Some(Item::Value(Value::InlineTable(table))), ..) => {
            let place = place(table.span());
            let table = edit_inline(&text[place.clone()], name, value)?;
            splice(text, place, &table)
        }
        // Nothing to cut; or a section in the value's place, which stays and is refused.
        _ => text.to_owned(),
    })
}

/// The section `{ … }` with `value` for the key `name`, or without the key.
fn edit_inline(section: &str, name: &str, value: Option<&str>) -> Result<String, TomlError> {
    let mut edited: Value = section.parse()?;
    if let Some(table) = edited.as_inline_table_mut() {
        match value {
            Some(value) => table.insert(name, value.parse()?),
            None => table.remove(name),
        };
        // More lines than one may hold comments, which this would drop.
        if !section.contains('\n') {
            table.fmt();
        }
    }
    Ok(edited.to_string())
}

/// The place of what was parsed; all of that has one.
fn place(span: Option<Range<usize>>) -> Range<usize> {
    span.unwrap_or_default()
}

/// Where the line behind the one at `offset` begins.
fn next_line(text: &str, offset: usize) -> usize {
    text[offset..].find('\n').map_or(text.len(), |at| offset + at + 1)
}

/// `text` with `lines` put in at `offset`, where a line begins or the text ends.
fn insert_lines(text: &str, offset: usize, lines: &[&str]) -> String {
    let line_end = if text.contains("\r\n") { "\r\n" } else { "\n" };
    let is_open = offset > 0 && !text[..offset].ends_with('\n');
    let first = if is_open { line_end } else { "" };
    let lines = lines.iter().map(|line| format!("{line}{line_end}"));
    let new = std::iter::once(first.to_owned()).chain(lines);
    splice(text, offset..offset, &new.collect::<String>())
}

/// `text` with `new` in this place.
fn splice(text: &str, place: Range<usize>, new: &str) -> String {
    [&text[..place.start], new, &text[place.end..]].concat()
}
