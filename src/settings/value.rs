//! What a setting can hold, and how each kind is read from text and from TOML.

use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::words;

/// A value as one layer states it, before it is known to be valid.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// A word of the environment or of `--set`: any bytes.
    Text(OsString),
    Toml(toml::Value),
}

impl Input {
    /// Returns the value as a message names it.
    pub fn describe(&self) -> String {
        match self {
            Self::Text(text) => format!("`{}`", text.display()),
            Self::Toml(value) => format!("`{value}`"),
        }
    }

    /// Returns the text of a word or a TOML string; no other kind is taken for text.
    pub(super) fn text(&self) -> Option<&OsStr> {
        match self {
            Self::Text(text) => Some(text),
            Self::Toml(value) => value.as_str().map(OsStr::new),
        }
    }
}

/// A kind of value.
pub trait Value: Sized {
    /// The allowed values, as a message names them.
    const EXPECTED: &'static str;

    /// The same where `auto` is allowed, too.
    const OR_AUTO: &'static str = Self::EXPECTED;

    /// Reads what a layer states; `Err` says what is wrong where [`Self::EXPECTED`] does not.
    fn read(input: &Input) -> Result<Self, Option<String>>;

    /// Returns the value in TOML syntax, as `config show` prints it; `None` where there is none.
    fn show(&self) -> Option<String>;
}

/// `auto`, which the plan decides with a reason, or what the user decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice<T> {
    Auto,
    Fixed(T),
}

/// An enum whose variants go by words, and maybe one variant for all other words.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident, $expected:literal, $($variant:ident = $word:literal),+ $(; $other:ident)?) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum $name {
            $($variant,)+
            $(
                /// A name that this program does not know; rootlesskit gets it as it is.
                $other(OsString),
            )?
        }

        impl $name {
            /// Returns the name as settings and rootlesskit have it.
            pub fn word(&self) -> &OsStr {
                match self {
                    $(Self::$variant => OsStr::new($word),)+
                    $(Self::$other(word) => word,)?
                }
            }
        }

        impl Value for $name {
            const EXPECTED: &'static str = $expected;

            fn read(input: &Input) -> Result<Self, Option<String>> {
                let word = OsString::read(input)?;
                match word.to_str() {
                    $(Some($word) => Ok(Self::$variant),)+
                    $(_ => Ok(Self::$other(word)),)?
                    #[allow(unreachable_patterns)]
                    _ => Err(None),
                }
            }

            fn show(&self) -> Option<String> {
                Some(toml_string(self.word()))
            }
        }
    };
}

words! {
    /// rootlesskit's `--net`. `host` is always refused, as upstream's script does (moby 76b1d304e4).
    NetworkDriver, "slirp4netns, pasta, vpnkit, gvisor-tap-vsock, lxc-user-nic or auto",
    Slirp4netns = "slirp4netns", Pasta = "pasta", Vpnkit = "vpnkit", GvisorTapVsock = "gvisor-tap-vsock",
    LxcUserNic = "lxc-user-nic", Host = "host"; Other
}

words! {
    /// rootlesskit's `--port-driver`.
    PortDriver, "builtin, implicit, slirp4netns, pesto, gvisor-tap-vsock, none or auto",
    Builtin = "builtin", Implicit = "implicit", Slirp4netns = "slirp4netns", Pesto = "pesto",
    GvisorTapVsock = "gvisor-tap-vsock", None = "none"; Other
}

words! {
    /// rootlesskit's `--propagation`, as far as it goes with copy-up.
    Propagation, "rslave, rprivate, slave or private",
    Rslave = "rslave", Rprivate = "rprivate", Slave = "slave", Private = "private"
}

words! {
    /// Which iptables dockerd finds in its namespace: `legacy` or an error, or what `PATH` has.
    #[derive(Copy)]
    Iptables, "auto, legacy or path", Auto = "auto", Legacy = "legacy", Path = "path"
}

words! {
    /// Whether containers see the address of their clients.
    #[derive(Copy)]
    SourceIp, "auto, preserve or off", Auto = "auto", Preserve = "preserve", Off = "off"
}

words! {
    /// What follows when dockerd hangs.
    OnHang, "restart or report", Restart = "restart", Report = "report"
}

impl Value for bool {
    const EXPECTED: &'static str = "true or false";
    const OR_AUTO: &'static str = "true, false or auto";

    fn read(input: &Input) -> Result<Self, Option<String>> {
        match input {
            Input::Toml(value) => value.as_bool(),
            Input::Text(text) => match text.as_bytes() {
                b"true" | b"1" => Some(true),
                b"false" | b"0" => Some(false),
                _ => None,
            },
        }
        .ok_or(None)
    }

    fn show(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl Choice<bool> {
    /// Returns the name as rootlesskit takes it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Fixed(true) => "true",
            Self::Fixed(false) => "false",
        }
    }
}

/// The largest MTU in bytes that rootlesskit and slirp4netns take, and the longest time in seconds.
const MTU_MAX: u32 = 65521;
const DAY: u32 = 86400;

/// An MTU in bytes; 0 leaves it to the network driver, as rootlesskit does.
pub type Mtu = Number<0, MTU_MAX>;

/// A time in seconds.
pub type Seconds<const MIN: u32> = Number<MIN, DAY>;

/// A whole number from `MIN` to `MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number<const MIN: u32, const MAX: u32>(pub u32);

impl<const MIN: u32, const MAX: u32> Value for Number<MIN, MAX> {
    const EXPECTED: &'static str = match (MIN, MAX) {
        (0, DAY) => "a whole number of seconds from 0 to 86400",
        (1, DAY) => "a whole number of seconds from 1 to 86400",
        _ => "a whole number of bytes from 0 to 65521, or auto",
    };

    fn read(input: &Input) -> Result<Self, Option<String>> {
        let number: Option<u32> = match input {
            Input::Toml(value) => value.as_integer().and_then(|number| number.try_into().ok()),
            // Go reads a leading zero as octal: refuse what the two would read differently.
            Input::Text(text) => text.to_str().and_then(|text| {
                text.parse().ok().filter(|number: &u32| number.to_string() == text)
            }),
        };
        number.filter(|number| (MIN..=MAX).contains(number)).map(Self).ok_or(None)
    }

    fn show(&self) -> Option<String> {
        Some(self.0.to_string())
    }
}

impl<T: Value> Value for Choice<T> {
    const EXPECTED: &'static str = T::OR_AUTO;

    fn read(input: &Input) -> Result<Self, Option<String>> {
        match input.text() {
            Some(text) if text == "auto" => Ok(Self::Auto),
            _ => T::read(input).map(Self::Fixed),
        }
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
        input.text().filter(|text| !text.is_empty()).map(OsStr::to_owned).ok_or(None)
    }

    fn show(&self) -> Option<String> {
        Some(toml_string(self))
    }
}

impl Value for SocketAddr {
    const EXPECTED: &'static str = "an address and a port such as 0.0.0.0:2376 or [::1]:2376";

    fn read(input: &Input) -> Result<Self, Option<String>> {
        let address = input.text().and_then(|text| text.to_str()?.parse().ok());
        address.filter(|address: &Self| address.port() != 0).ok_or(None)
    }

    fn show(&self) -> Option<String> {
        Some(toml_string(self.to_string().as_ref()))
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
        match input {
            Input::Text(text) => words::split(text).map_err(|reason| Some(reason.to_owned())),
            Input::Toml(value) => {
                let items = value.as_array().ok_or(None)?.iter();
                items
                    .map(|item| item.as_str().map(OsString::from))
                    .collect::<Option<_>>()
                    .ok_or(None)
            }
        }
    }

    fn show(&self) -> Option<String> {
        let items: Vec<String> = self.iter().map(|item| toml_string(item)).collect();
        Some(format!("[{}]", items.join(", ")))
    }
}

/// Directories, each absolute and free of the comma at which rootlesskit splits its lists.
impl Value for Vec<PathBuf> {
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
        Ok(items.into_iter().map(PathBuf::from).collect())
    }

    fn show(&self) -> Option<String> {
        self.iter().map(OsString::from).collect::<Vec<_>>().show()
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
        Some(toml_string(self.redacted().as_ref()))
    }
}

impl ProxyUrl {
    /// Returns the address without user and password.
    pub fn redacted(&self) -> String {
        let url = self.0.to_string_lossy();
        let start = url.find("://").map_or(0, |at| at + 3);
        match url[start..].rsplit_once('@') {
            Some((_, host)) => format!("{}***@{host}", &url[..start]),
            None => url.clone().into_owned(),
        }
    }
}

/// Returns `text` as a TOML string; bytes that are not UTF-8 are shown as U+FFFD.
pub(super) fn toml_string(text: &OsStr) -> String {
    toml::Value::String(text.to_string_lossy().into_owned()).to_string()
}
