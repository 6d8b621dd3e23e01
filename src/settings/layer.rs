//! What one source says: values by key, each with its place.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use crate::environment::Environment;
use crate::error::{Error, Exit, Warning};
use crate::settings::value::Input;
use crate::settings::{KEYS, Key};

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Default,
    /// A line, counted from 1, of a configuration file.
    File(PathBuf, usize),
    Variable(&'static str),
    /// `--set` on the command line.
    CommandLine,
    /// This flag among the user's own for rootlesskit.
    Flag(&'static str),
}

impl Origin {
    /// Returns the command, or the words, that give `key` the value `instead` of the one from here.
    pub fn take_back(&self, key: &str, instead: &str) -> String {
        match self {
            Self::Variable(name) => format!("unset {name}"),
            Self::CommandLine => format!("say `--set {key}={instead}`"),
            Self::Flag(flag) => format!("take `{flag}` out of rootlesskit.flags"),
            Self::Default | Self::File(..) => {
                format!("dockerd-rootless config set {key} {instead}")
            }
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => out.write_str("default"),
            Self::File(path, line) => write!(out, "{}:{line}", path.display()),
            Self::Variable(name) => write!(out, "environment variable {name}"),
            Self::CommandLine => out.write_str("command line"),
            Self::Flag(flag) => write!(out, "flag {flag} in rootlesskit.flags"),
        }
    }
}

/// The values that one source states.
#[derive(Clone, Debug, Default)]
pub struct Layer {
    pub(super) values: BTreeMap<&'static str, (Input, Origin)>,
    pub(super) warnings: Vec<Warning>,
}

impl Layer {
    /// The keys that variables set, and which.
    pub fn variables(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        self.values.iter().filter_map(|(key, (_, origin))| match origin {
            Origin::Variable(name) => Some((*key, *name)),
            _ => None,
        })
    }

    /// Reads upstream's variables and ours.
    pub fn from_environment(environment: &Environment) -> Self {
        let mut layer = Self::default();
        for key in KEYS {
            let set = key.variables.iter().find_map(|name| Some((*name, environment.get(name)?)));
            let Some((name, text)) = set else { continue };
            let mut input = Input::Text(text.to_owned());
            // The variable says the opposite of the setting, and only this one word opens the
            // loopback (moby b649e272bb).
            if name.ends_with("_DISABLE_HOST_LOOPBACK") {
                if text != "true" && text != "false" {
                    let text = text.display();
                    layer.warnings.push(Warning(format!(
                        "`{name}`: `{text}` is neither `true` nor `false`, and only `false` lets \
                         containers reach the host's loopback"
                    )));
                }
                input = Input::Bool(text == "false");
            }
            layer.values.insert(key.name, (input, Origin::Variable(name)));
        }
        layer
    }

    /// Refuses a variable that is one of ours, misspelt. Others may belong to a later upstream.
    pub fn refuse_misspelt(environment: &Environment) -> Result<(), Error> {
        let own =
            || KEYS.iter().flat_map(|key| key.variables).filter(|own| own.starts_with(PREFIX));
        let unknown = environment.names(PREFIX).filter(|name| !own().any(|own| own == name));
        for name in unknown {
            let near = own().find(|own| strsim::levenshtein(own, name) <= 2);
            if let Some(near) = near {
                return Err(Error::new(Exit::Config, format!("unknown variable `{name}`"))
                    .hint(format!("did you mean `{near}`? If not: unset {name}")));
            }
        }
        Ok(())
    }

    /// Reads the `text` of the configuration file `path`. An error names the file and the line.
    pub fn from_toml(path: &Path, text: &str) -> Result<Self, Error> {
        let line_at =
            |offset: usize| 1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count();
        let wrong = |offset: usize, what: String| {
            let number = line_at(offset);
            let error = Error::new(Exit::Config, format!("{}:{number}: {what}", path.display()));
            match text.lines().nth(number - 1).map(str::trim) {
                // A proxy's address may hold a password.
                Some(line) if !line.is_empty() && !line.contains('@') => {
                    error.cause(format!("line {number} is: {line}"))
                }
                _ => error,
            }
        };
        let document = DeTable::parse(text).map_err(|error| {
            wrong(error.span().map_or(0, |span| span.start), error.message().to_owned())
                .hint("a line is `key = value`, with text in quotes: driver = \"pasta\"")
        })?;
        let mut layer = Self::default();
        for (section, table) in document.get_ref() {
            let (at, section) = (section.span().start, section.get_ref());
            let is_known = KEYS.iter().any(|key| key.section() == section);
            let entries = table.get_ref().as_table();
            // In an unknown section the first key is named, which may have a near relation.
            if !is_known && entries.is_none_or(|entries| entries.is_empty()) {
                return Err(wrong(at, format!("unknown key `{section}`")).hint(sections()));
            }
            let Some(entries) = entries else {
                let what = format!("`{section}` is a section, and got a value");
                return Err(wrong(at, what).hint(sections()));
            };
            for (name, value) in entries {
                let full = format!("{section}.{}", name.get_ref());
                let offset = name.span().start;
                let key = Key::find(&full).map_err(|nearest| {
                    wrong(offset, format!("unknown key `{full}`")).hint(nearest)
                })?;
                let origin = Origin::File(path.to_owned(), line_at(offset));
                layer.values.insert(key.name, (toml_input(value.get_ref()), origin));
            }
        }
        Ok(layer)
    }

    /// Reads the `KEY=VALUE` words of `--set`; a later word beats an earlier one.
    pub fn from_assignments(assignments: &[OsString]) -> Result<Self, Error> {
        let mut layer = Self::default();
        for word in assignments {
            let bytes = word.as_bytes();
            let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || b".-_".contains(byte);
            let name =
                String::from_utf8_lossy(bytes.split(|byte| !is_name(byte)).next().unwrap_or(b""));
            let wrong = |what: &str| Error::new(Exit::Usage, format!("`--set {name}`: {what}"));
            let equals = bytes.iter().position(|byte| *byte == b'=').ok_or_else(|| {
                wrong("expected KEY=VALUE").hint("for example: --set network.driver=pasta")
            })?;
            let key = Key::find(&String::from_utf8_lossy(&bytes[..equals]))
                .map_err(|nearest| wrong("unknown key").hint(nearest))?;
            let value = OsStr::from_bytes(&bytes[equals + 1..]).to_owned();
            layer.values.insert(key.name, (Input::Text(value), Origin::CommandLine));
        }
        Ok(layer)
    }
}

/// How the variables of upstream's script begin, and ours.
const PREFIX: &str = "DOCKERD_ROOTLESS_";

/// The hint for a key without a section.
fn sections() -> String {
    let mut names: Vec<String> = KEYS.iter().map(|key| format!("[{}]", key.section())).collect();
    names.dedup();
    format!("keys stand in a section: {}", names.join(", "))
}

/// A TOML value as an input; arrays count if they hold strings only.
fn toml_input(value: &DeValue<'_>) -> Input {
    match value {
        DeValue::String(text) => Input::String(text.to_string()),
        DeValue::Boolean(value) => Input::Bool(*value),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or(Input::Other("integer out of range"), Input::Integer),
        DeValue::Array(items) => items
            .iter()
            .map(|item| item.get_ref().as_str().map(str::to_owned))
            .collect::<Option<Vec<String>>>()
            .map_or(Input::Other("array of other things than strings"), Input::Array),
        other => Input::Other(other.type_str()),
    }
}
