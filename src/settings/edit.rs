//! Edits the text of a configuration file. Comments, layout and line ends stay.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use toml_edit::{Document, DocumentMut, Item, Table, TomlError, Value};

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
/// Fails over what is wrong with the value, or elsewhere in the file; not over what the file said of
/// the key itself, which this fixes.
pub fn edit(path: &Path, text: &str, key: &Key, value: Option<&OsStr>) -> Result<Edited, Error> {
    let value = value.map(|word| read_word(key, word)).transpose()?;
    let (stored, shown) = value.unzip();
    let before = Layer::from_toml(path, text)?;
    // Judged before the edit, so that an error names the line as it is in the file.
    let mut others = before.clone();
    others.values.remove(key.name);
    Settings::resolve(&[others])?;

    let (section, name) = key.name.split_once('.').unwrap_or(("", key.name));
    let edited = match &stored {
        Some(value) => set(text, section, name, value),
        None => unset(text, section, name),
    };
    let edited = edited.map_err(|error| {
        let what = format!("{}: {}", path.display(), error.message());
        Error::new(Exit::Config, what)
    })?;
    let after = Layer::from_toml(path, &edited)?;
    let edited = with_line_ends_of(text, edited, |other| {
        Layer::from_toml(path, other).is_ok_and(|layer| layer.values == after.values)
    });
    let said = [&before, &after].map(|layer| layer.values.get(key.name).map(|(input, _)| input));
    let says_the_same = said[0] == said[1];
    Settings::resolve(&[after])?;
    Ok(Edited { text: if says_the_same { text.to_owned() } else { edited }, shown })
}

/// Returns `edited` with the line ends of the `old` text, unless a value would become another.
fn with_line_ends_of(old: &str, edited: String, is_same: impl Fn(&str) -> bool) -> String {
    let crlf = edited.replace("\r\n", "\n").replace('\n', "\r\n");
    if old.contains("\r\n") && is_same(&crlf) { crlf } else { edited }
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

/// Returns `text` with `value` for the key `name` of `section`.
fn set(text: &str, section: &str, name: &str, value: &str) -> Result<String, TomlError> {
    let mut document: DocumentMut = text.parse()?;
    let mut value: Value = value.parse()?;
    if !document.contains_key(section) {
        // Comments at the end of the file stay above the new section.
        let above = document.trailing().as_str().unwrap_or_default().to_owned();
        let is_first = document.is_empty() && above.is_empty();
        document.set_trailing("");
        let mut table = Table::new();
        table.decor_mut().set_prefix(if is_first { above } else { format!("{above}\n") });
        document.insert(section, Item::Table(table));
    }
    let Some(table) = document.get_mut(section).and_then(Item::as_table_like_mut) else {
        return Ok(text.to_owned());
    };
    match table.get_mut(name) {
        Some(Item::Value(old)) => {
            *value.decor_mut() = old.decor().clone();
            *old = value;
        }
        // A section in the value's place stays, and is refused.
        Some(_) => {}
        None => {
            table.insert(name, Item::Value(value));
            tidy(document.get_mut(section));
        }
    }
    Ok(render(&document, text))
}

/// Returns `text` without the key `name` of `section`, and without the lines that are its alone.
fn unset(text: &str, section: &str, name: &str) -> Result<String, TomlError> {
    let parsed = Document::parse(text)?;
    let found = parsed.get(section);
    let Some(Item::Value(old)) = found.and_then(|found| found.get(name)) else {
        return Ok(text.to_owned());
    };
    if let Some(Item::Table(_)) = found {
        // A key and the beginning of its value share a line.
        let place = old.span().unwrap_or_default();
        let start = text[..place.start].rfind('\n').map_or(0, |at| at + 1);
        let end = text[place.end..].find('\n').map_or(text.len(), |at| place.end + at + 1);
        return Ok([&text[..start], &text[end..]].concat());
    }
    let mut document: DocumentMut = text.parse()?;
    let table = document.get_mut(section).and_then(Item::as_table_like_mut);
    table.and_then(|table| table.remove(name));
    tidy(document.get_mut(section));
    Ok(render(&document, text))
}

/// Spaces a table in one line evenly. More lines may hold comments, which this would drop.
fn tidy(section: Option<&mut Item>) {
    if let Some(table) = section.and_then(Item::as_inline_table_mut)
        && !table.to_string().contains('\n')
    {
        table.fmt();
    }
}

/// The text of `document`, with the byte order mark of the `old` text.
fn render(document: &DocumentMut, old: &str) -> String {
    let mark = if old.starts_with('\u{feff}') { "\u{feff}" } else { "" };
    format!("{mark}{document}")
}
