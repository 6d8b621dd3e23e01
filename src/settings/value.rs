//! What a setting can hold, and how each kind is read from text and from TOML.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::words;

/// A value as one layer states it, before it is known to be valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A word of the environment or of `--set`: any bytes.
    Text(OsString),
    String(String),
    Integer(i64),
    Bool(bool),
    Array(Vec<String>),
    /// A TOML value of a kind that no setting has; its type's name.
    Other(&'static str),
}

impl Input {
    /// The value as it is named in a message.
    pub fn describe(&self) -> String {
        match self {
            Self::Text(text) => format!("`{}`", text.display()),
            Self::String(text) => format!("the string `{text}`"),
            Self::Integer(number) => format!("`{number}`"),
            Self::Bool(value) => format!("`{value}`"),
            Self::Array(items) => format!("`{items:?}`"),
            Self::Other(kind) => format!("a value of type {kind}"),
        }
    }

    /// The text of a word or a TOML string; no other kind is taken for text.
    fn text(&self) -> Option<&OsStr> {
        match self {
            Self::Text(text) => Some(text),
            Self::String(text) => Some(OsStr::new(text)),
            _ => None,
        }
    }
}

/// A kind of value.
pub trait Value: Sized {
    /// The allowed values, as they are named in a message.
    const EXPECTED: &'static str;

    /// Reads what a layer states; `Err` says what is wrong where [`Self::EXPECTED`] does not.
    fn read(input: &Input) -> Result<Self, Option<String>>;

    /// The value in TOML syntax, as `config show` prints it; `None` where there is none.
    fn show(&self) -> Option<String>;
}

/// `auto`, which the plan decides with a reason, or what the user decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice<T> {
    Auto,
    Fixed(T),
}

/// An enum whose variants go by words. In an `open` one, rootlesskit may know other words.
macro_rules! word_enum {
    ($(#[$doc:meta])* $name:ident, $expected:literal, $($variant:ident = $word:literal),+; open) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum $name {
            $($variant,)+
            /// A name that this program does not know; it is handed on as it is.
            Other(OsString),
        }

        impl $name {
            /// Returns the name as rootlesskit takes it.
            pub fn word(&self) -> &OsStr {
                match self {
                    $(Self::$variant => OsStr::new($word),)+
                    Self::Other(word) => word,
                }
            }

            /// Returns the value that goes by `word`.
            pub fn from_word(word: &OsStr) -> Self {
                match word.as_bytes() {
                    $(bytes if bytes == $word.as_bytes() => Self::$variant,)+
                    _ => Self::Other(word.to_owned()),
                }
            }
        }

        impl Value for $name {
            const EXPECTED: &'static str = $expected;

            fn read(input: &Input) -> Result<Self, Option<String>> {
                OsString::read(input).map(|word| Self::from_word(&word))
            }

            fn show(&self) -> Option<String> {
                Some(toml_string(self.word()))
            }
        }
    };
    ($(#[$doc:meta])* $name:ident, $expected:literal, $($variant:ident = $word:literal),+) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($variant,)+
        }

        impl $name {
            /// Returns the name as settings have it.
            pub fn word(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }

        impl Value for $name {
            const EXPECTED: &'static str = $expected;

            fn read(input: &Input) -> Result<Self, Option<String>> {
                match input.text().map(OsStr::as_bytes) {
                    $(Some(bytes) if bytes == $word.as_bytes() => Ok(Self::$variant),)+
                    _ => Err(None),
                }
            }

            fn show(&self) -> Option<String> {
                Some(toml_string(OsStr::new(self.word())))
            }
        }
    };
}

word_enum! {
    /// rootlesskit's `--net`. `host` is always refused, as upstream's script does (moby 76b1d304e4).
    NetworkDriver, "slirp4netns, pasta, vpnkit, gvisor-tap-vsock, lxc-user-nic or auto",
    Slirp4netns = "slirp4netns", Pasta = "pasta", Vpnkit = "vpnkit", GvisorTapVsock = "gvisor-tap-vsock",
    LxcUserNic = "lxc-user-nic", Host = "host"; open
}

word_enum! {
    /// rootlesskit's `--port-driver`.
    PortDriver, "builtin, implicit, slirp4netns, pesto, gvisor-tap-vsock, none or auto",
    Builtin = "builtin", Implicit = "implicit", Slirp4netns = "slirp4netns", Pesto = "pesto",
    GvisorTapVsock = "gvisor-tap-vsock", None = "none"; open
}

word_enum! {
    /// rootlesskit's `--propagation`, as far as it goes with copy-up.
    Propagation, "rslave, rprivate, slave or private",
    Rslave = "rslave", Rprivate = "rprivate", Slave = "slave", Private = "private"
}

word_enum! {
    /// Which iptables dockerd meets in its namespace: `legacy` or an error, or what `PATH` has.
    Iptables, "auto, legacy or path", Auto = "auto", Legacy = "legacy", Path = "path"
}

word_enum! {
    /// What follows when dockerd hangs.
    OnHang, "restart or report", Restart = "restart", Report = "report"
}

/// `true`, `false`, or left to the program that does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    Auto,
    On,
    Off,
}

impl Switch {
    /// Returns the name as rootlesskit takes it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::On => "true",
            Self::Off => "false",
        }
    }
}

impl Value for Switch {
    const EXPECTED: &'static str = "true, false or auto";

    fn read(input: &Input) -> Result<Self, Option<String>> {
        match (bool::read(input), input.text().map(OsStr::as_bytes)) {
            (Ok(true), _) => Ok(Self::On),
            (Ok(false), _) => Ok(Self::Off),
            (_, Some(b"auto")) => Ok(Self::Auto),
            _ => Err(None),
        }
    }

    fn show(&self) -> Option<String> {
        Some(if *self == Self::Auto { "\"auto\"" } else { self.word() }.to_owned())
    }
}

impl Value for bool {
    const EXPECTED: &'static str = "true or false";

    fn read(input: &Input) -> Result<Self, Option<String>> {
        match (input, input.text().map(OsStr::as_bytes)) {
            (Input::Bool(value), _) => Ok(*value),
            (Input::Text(_), Some(b"true" | b"1")) => Ok(true),
            (Input::Text(_), Some(b"false" | b"0")) => Ok(false),
            _ => Err(None),
        }
    }

    fn show(&self) -> Option<String> {
        Some(self.to_string())
    }
}

/// Reads a number: a TOML integer, or decimal digits in a word.
fn read_number(input: &Input) -> Option<u32> {
    match input {
        Input::Integer(number) => u32::try_from(*number).ok(),
        Input::Text(text) => {
            let text = text.to_str()?;
            text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
        }
        _ => None,
    }
}

/// The largest MTU in bytes that rootlesskit and slirp4netns take.
pub const MTU_MAX: u32 = 65521;

/// An MTU in bytes; 0 leaves it to the network driver, as rootlesskit does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mtu(pub u32);

impl Value for Mtu {
    const EXPECTED: &'static str = "a whole number of bytes from 0 to 65521, or auto";

    fn read(input: &Input) -> Result<Self, Option<String>> {
        // Go would read a leading zero as octal: refuse what the two might read differently.
        let is_octal =
            input.text().is_some_and(|text| text != "0" && text.as_bytes().starts_with(b"0"));
        let number = read_number(input).filter(|number| *number <= MTU_MAX && !is_octal);
        number.map(Self).ok_or(None)
    }

    fn show(&self) -> Option<String> {
        Some(self.0.to_string())
    }
}

/// The longest time in seconds that a setting takes: a day.
const SECONDS_MAX: u32 = 86_400;

/// A time in seconds, `MIN` or more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seconds<const MIN: u32>(pub u32);

impl<const MIN: u32> Value for Seconds<MIN> {
    const EXPECTED: &'static str = match MIN {
        0 => "a whole number of seconds from 0 to 86400",
        _ => "a whole number of seconds from 1 to 86400",
    };

    fn read(input: &Input) -> Result<Self, Option<String>> {
        let number = read_number(input).filter(|number| (MIN..=SECONDS_MAX).contains(number));
        number.map(Self).ok_or(None)
    }

    fn show(&self) -> Option<String> {
        Some(self.0.to_string())
    }
}

impl<T: Value> Value for Choice<T> {
    const EXPECTED: &'static str = T::EXPECTED;

    fn read(input: &Input) -> Result<Self, Option<String>> {
        if input.text() == Some(OsStr::new("auto")) {
            return Ok(Self::Auto);
        }
        T::read(input).map(Self::Fixed)
    }

    fn show(&self) -> Option<String> {
        match self {
            Self::Auto => Some("\"auto\"".to_owned()),
            Self::Fixed(value) => value.show(),
        }
    }
}

impl Value for OsString {
    const EXPECTED: &'static str = "a string that is not empty";

    fn read(input: &Input) -> Result<Self, Option<String>> {
        match input.text() {
            Some(text) if text.as_bytes().contains(&0) => {
                Err(Some("it contains a NUL byte".to_owned()))
            }
            Some(text) if !text.is_empty() => Ok(text.to_owned()),
            _ => Err(None),
        }
    }

    fn show(&self) -> Option<String> {
        Some(toml_string(self))
    }
}

impl<T: Value> Value for Option<T> {
    const EXPECTED: &'static str = T::EXPECTED;

    fn read(input: &Input) -> Result<Self, Option<String>> {
        T::read(input).map(Some)
    }

    fn show(&self) -> Option<String> {
        self.as_ref().and_then(T::show)
    }
}

impl Value for Vec<OsString> {
    const EXPECTED: &'static str = "a list of strings (in one text: words as a shell splits them)";

    fn read(input: &Input) -> Result<Self, Option<String>> {
        let items = match input {
            Input::Text(text) => words::split(text).map_err(|reason| Some(reason.to_owned()))?,
            Input::Array(items) => items.iter().map(OsString::from).collect(),
            _ => return Err(None),
        };
        match items.iter().find(|item| item.as_bytes().contains(&0)) {
            Some(item) => Err(Some(format!("`{}` contains a NUL byte", item.display()))),
            None => Ok(items),
        }
    }

    fn show(&self) -> Option<String> {
        let items: Vec<String> = self.iter().map(|item| toml_string(item)).collect();
        Some(format!("[{}]", items.join(", ")))
    }
}

/// Directories, each absolute and free of the comma at which rootlesskit splits its lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directories(pub Vec<PathBuf>);

impl Value for Directories {
    const EXPECTED: &'static str = "a list of absolute paths";

    fn read(input: &Input) -> Result<Self, Option<String>> {
        let items = Vec::<OsString>::read(input)?;
        for item in &items {
            let wrong = |reason| Err(Some(format!("`{}` {reason}", item.display())));
            if !item.as_bytes().starts_with(b"/") {
                return wrong("is not absolute");
            }
            if item.as_bytes().contains(&b',') {
                return wrong("contains a comma, at which rootlesskit would split it");
            }
        }
        Ok(Self(items.into_iter().map(PathBuf::from).collect()))
    }

    fn show(&self) -> Option<String> {
        self.0.iter().map(|path| path.clone().into_os_string()).collect::<Vec<_>>().show()
    }
}

/// The address of a proxy. Its password is never shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyUrl(pub OsString);

impl Value for ProxyUrl {
    const EXPECTED: &'static str = "a URL such as http://proxy:3128";

    fn read(input: &Input) -> Result<Self, Option<String>> {
        OsString::read(input).map(Self)
    }

    fn show(&self) -> Option<String> {
        Some(toml_string(OsStr::new(&self.redacted())))
    }
}

impl ProxyUrl {
    /// The address without user and password.
    pub fn redacted(&self) -> String {
        let url = self.0.to_string_lossy();
        let start = url.find("://").map_or(0, |at| at + 3);
        match url[start..].rsplit_once('@') {
            Some((_, host)) => format!("{}***@{host}", &url[..start]),
            None => url.clone().into_owned(),
        }
    }
}

/// `text` as a TOML string; bytes that are not UTF-8 are shown as U+FFFD.
pub(super) fn toml_string(text: &OsStr) -> String {
    toml::Value::String(text.to_string_lossy().into_owned()).to_string()
}
