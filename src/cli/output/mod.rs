//! Renders results, for people and for programs.
#![forbid(unsafe_code)]

mod check;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use serde_json::{Value, json};

use crate::error::Error;
pub use crate::sys::stdout::print;
pub use check::{
    CheckStyle, check_list_json, check_list_text, findings_json, findings_text, fix_script,
    one_line, paint, plural, setup_instructions, tool_json, wrap,
};

/// How results are printed: text for people, or one JSON object.
#[derive(Default, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    #[default]
    Text,
    Json,
}

/// Whose commands are printed: to paste as they are, for a shell of root, or for the user's.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Whose {
    Both,
    Root,
    User,
}

/// The version of every object that is printed as JSON.
const SCHEMA: u32 = 1;

/// Returns a word as a JSON string, or as `{"bytes": [...]}` if it is not UTF-8.
pub fn json_word(word: &OsStr) -> Value {
    word.to_str().map_or_else(|| json!({"bytes": word.as_bytes()}), |text| json!(text))
}

/// Prints a result as one object with the schema's version, or as text.
pub fn tell(format: Format, mut value: Value, text: impl AsRef<[u8]>) -> Result<(), Error> {
    value["schema"] = json!(SCHEMA);
    match format {
        Format::Json => print(format!("{value}\n")),
        Format::Text => print(text),
    }
}
