//! What one source says: values by key, each with its place.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use toml::de::DeTable;
use toml::{Table, Value};

use crate::environment::Environment;
use crate::error::{Error, Exit, Warning};
use crate::settings::value::Input;
use crate::settings::{KEYS, Key, split_assignment};

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
    /// Returns the command, or the words, that give `key` the value `instead`.
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
                input = Input::Toml((text == "false").into());
            }
            layer.values.insert(key.name, (input, Origin::Variable(name)));
        }
        layer
    }

    /// Refuses a variable that is one of ours, misspelt. Others may belong to a later upstream.
    pub fn refuse_misspelt(environment: &Environment) -> Result<(), Error> {
        for name in environment.names("DOCKERD_ROOTLESS_") {
            let own = KEYS.iter().flat_map(|key| key.variables);
            let near = own.min_by_key(|own| strsim::levenshtein(own, name));
            if let Some(near) = near.filter(|own| (1..=2).contains(&strsim::levenshtein(own, name)))
            {
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
        let parsed = DeTable::parse(text).and_then(|spans| Ok((spans, text.parse::<Table>()?)));
        let (spans, values) = parsed.map_err(|error| {
            wrong(error.span().map_or(0, |span| span.start), error.message().to_owned())
                .hint("a line is `key = value`, with text in quotes: driver = \"pasta\"")
        })?;
        let mut layer = Self::default();
        for (section, table) in spans.get_ref() {
            let is_known = KEYS.iter().any(|key| key.section() == section.get_ref());
            let entries = table.get_ref().as_table();
            // In an unknown section the first key is named, which may have a near relation.
            let entries = entries.filter(|entries| is_known || !entries.is_empty());
            let entries = entries.ok_or_else(|| {
                let what = format!("unknown key `{}`", section.get_ref());
                wrong(section.span().start, what).hint(sections())
            })?;
            for name in entries.keys() {
                let full = format!("{}.{}", section.get_ref(), name.get_ref());
                let offset = name.span().start;
                let key = Key::find(&full).map_err(|nearest| {
                    wrong(offset, format!("unknown key `{full}`")).hint(nearest)
                })?;
                let value = values[&**section.get_ref()][&**name.get_ref()].clone();
                let has_nul =
                    |value: &Value| value.as_str().is_some_and(|text| text.contains('\0'));
                let items = value.as_array().into_iter().flatten();
                if std::iter::once(&value).chain(items).any(has_nul) {
                    return Err(wrong(offset, format!("`{full}` contains a NUL byte")));
                }
                let origin = Origin::File(path.to_owned(), line_at(offset));
                layer.values.insert(key.name, (Input::Toml(value), origin));
            }
        }
        Ok(layer)
    }

    /// Reads the `KEY=VALUE` words of `--set`; a later word beats an earlier one.
    pub fn from_assignments(assignments: &[OsString]) -> Result<Self, Error> {
        let mut layer = Self::default();
        for word in assignments {
            // What lacks a key is not shown: it may hold a password.
            let (name, value) = split_assignment(word).ok_or_else(|| {
                Error::new(Exit::Usage, "`--set`: expected KEY=VALUE")
                    .hint("for example: --set network.driver=pasta")
            })?;
            let key = Key::find(name).map_err(|nearest| {
                Error::new(Exit::Usage, format!("`--set {name}`: unknown key")).hint(nearest)
            })?;
            let value = value.to_owned();
            layer.values.insert(key.name, (Input::Text(value), Origin::CommandLine));
        }
        Ok(layer)
    }
}

/// Returns the hint for a key without a section.
fn sections() -> String {
    let mut names: Vec<String> = KEYS.iter().map(|key| format!("[{}]", key.section())).collect();
    names.dedup();
    format!("keys stand in a section: {}", names.join(", "))
}
