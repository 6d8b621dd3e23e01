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
    /// A TOML string.
    String(String),
    /// A TOML integer.
    Integer(i64),
    /// A TOML boolean.
    Bool(bool),
    /// A TOML array of strings.
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

/// `auto`, or what the user decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice<T> {
    /// The program decides, and gives its reason in the plan.
    Auto,
    /// The user decided.
    Fixed(T),
}

macro_rules! word_enum {
    ($(#[$doc:meta])* $name:ident, $expected:literal, $($(#[$variant_doc:meta])* $variant:ident = $word:literal),+ ; open) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
            /// A name that this program does not know; it is handed on as it is.
            Other(OsString),
        }

        impl $name {
            /// The name as rootlesskit takes it.
            pub fn word(&self) -> &OsStr {
                match self {
                    $(Self::$variant => OsStr::new($word),)+
                    Self::Other(word) => word,
                }
            }

            /// The value that goes by `word`.
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
    ($(#[$doc:meta])* $name:ident, $expected:literal, $($(#[$variant_doc:meta])* $variant:ident = $word:literal),+) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
        }

        impl $name {
            /// The name as it stands in settings.
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
    /// rootlesskit's `--net`.
    NetworkDriver, "slirp4netns, pasta, vpnkit, gvisor-tap-vsock, lxc-user-nic or auto",
    /// User-mode TCP/IP in a helper process.
    Slirp4netns = "slirp4netns",
    /// passt's namespace mode.
    Pasta = "pasta",
    /// Docker Desktop's user-mode stack.
    Vpnkit = "vpnkit",
    /// gVisor's stack inside rootlesskit itself, from 3.0 on.
    GvisorTapVsock = "gvisor-tap-vsock",
    /// A veth pair made by a setuid helper.
    LxcUserNic = "lxc-user-nic",
    /// The host's own network; always refused, as upstream's script does (moby 76b1d304e4).
    Host = "host"; open
}

word_enum! {
    /// rootlesskit's `--port-driver`.
    PortDriver, "builtin, implicit, slirp4netns, pesto, gvisor-tap-vsock, none or auto",
    /// Forwarders inside rootlesskit.
    Builtin = "builtin",
    /// pasta forwards by itself whatever is listened on.
    Implicit = "implicit",
    /// slirp4netns forwards.
    Slirp4netns = "slirp4netns",
    /// pasta's control program forwards.
    Pesto = "pesto",
    /// The gVisor stack forwards.
    GvisorTapVsock = "gvisor-tap-vsock",
    /// No port is published.
    None = "none"; open
}

word_enum! {
    /// rootlesskit's `--propagation`, as far as it goes with copy-up.
    Propagation, "rslave, rprivate, slave or private",
    /// Later mounts of the host appear inside.
    Rslave = "rslave",
    /// Nothing crosses.
    Rprivate = "rprivate",
    /// As `rslave`, the root mount only.
    Slave = "slave",
    /// As `rprivate`, the root mount only.
    Private = "private"
}

word_enum! {
    /// Which iptables dockerd meets in its namespace.
    Iptables, "auto, legacy or path",
    /// The legacy backend where the namespace's kernel has it, since it starts faster.
    Auto = "auto",
    /// The legacy backend, or an error.
    Legacy = "legacy",
    /// Whatever `PATH` has.
    Path = "path"
}

/// `true`, `false`, or left to the program that is asked to do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// Decided where it is known.
    Auto,
    /// On.
    On,
    /// Off.
    Off,
}

impl Switch {
    /// The name as rootlesskit takes it.
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

/// What follows when dockerd hangs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnHang {
    /// dockerd alone is restarted.
    Restart,
    /// It is reported.
    Report,
}

impl Value for OnHang {
    const EXPECTED: &'static str = "restart or report";

    fn read(input: &Input) -> Result<Self, Option<String>> {
        match input.text().map(OsStr::as_bytes) {
            Some(b"restart") => Ok(Self::Restart),
            Some(b"report") => Ok(Self::Report),
            _ => Err(None),
        }
    }

    fn show(&self) -> Option<String> {
        let word = match self {
            Self::Restart => "restart",
            Self::Report => "report",
        };
        Some(format!("\"{word}\""))
    }
}

impl Value for bool {
    const EXPECTED: &'static str = "true or false";

    fn read(input: &Input) -> Result<Self, Option<String>> {
        match input {
            Input::Bool(value) => Ok(*value),
            Input::Text(text) => match text.as_bytes() {
                b"true" | b"1" => Ok(true),
                b"false" | b"0" => Ok(false),
                _ => Err(None),
            },
            _ => Err(None),
        }
    }

    fn show(&self) -> Option<String> {
        Some(self.to_string())
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
        let number = match input {
            Input::Integer(number) => u32::try_from(*number).ok(),
            // Go would read a leading zero as octal: refuse what the two might read differently.
            Input::Text(text) => text
                .to_str()
                .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
                .filter(|text| *text == "0" || !text.starts_with('0'))
                .and_then(|text| text.parse().ok()),
            _ => None,
        };
        number.filter(|number| *number <= MTU_MAX).map(Self).ok_or(None)
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
        let number = match input {
            Input::Integer(number) => u32::try_from(*number).ok(),
            Input::Text(text) => text
                .to_str()
                .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
                .and_then(|text| text.parse().ok()),
            _ => None,
        };
        number.filter(|number| (MIN..=SECONDS_MAX).contains(number)).map(Self).ok_or(None)
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
