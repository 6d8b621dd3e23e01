//! What is to be fetched: which version, from where, and who vouches for it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::{debug, info, warn};

use crate::cli::fetch::FetchOptions;
use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::fetch;
use crate::fetch::checksum;
use crate::fetch::checksum::Line;
use crate::fetch::http::{Client, Failure};
use crate::fetch::store::failed;
use crate::fetch::{DOCKERS_MIRROR, Package, Policy, Sum, Url, Version, Voucher};
use crate::sys::files;

/// The largest list of sums in bytes.
const LIST_MAX: u64 = 1 << 20;

/// The largest directory index in bytes.
const INDEX_MAX: u64 = 4 << 20;

/// Where a tarball is.
#[derive(Debug)]
pub enum Place {
    /// Here.
    File(PathBuf),
    /// There.
    Server(Url),
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(out, "`{}`", path.display()),
            Self::Server(url) => write!(out, "`{url}`"),
        }
    }
}

/// One tarball.
#[derive(Debug)]
pub struct Archive {
    pub package: Package,
    pub file: String,
    pub place: Place,
    pub sum: Option<(Sum, Voucher)>,
}

/// What is to be fetched.
#[derive(Debug)]
pub struct Plan {
    pub version: Version,
    pub archives: [Archive; 2],
}

/// What asks the mirror.
pub fn client<'a>(environment: &'a Environment, options: &FetchOptions) -> Client<'a> {
    let stall = Duration::from_secs(options.timeout.into());
    Client::new(environment, policy(options), stall)
}

fn policy(options: &FetchOptions) -> Policy {
    match options.insecure_http {
        true => Policy::AnyHttp,
        false => Policy::HttpsOnly,
    }
}

/// Decides on the version and finds the sums. Asks the mirror if it must.
pub fn plan(
    environment: &Environment,
    options: &FetchOptions,
    client: &Client<'_>,
) -> Result<Plan, Error> {
    let channel = channel(environment, options)?;
    let origin = Origin::find(environment, options, &channel)?;
    let version = version(options, &channel, &origin, client)?;
    let words =
        options.sha256.iter().map(|word| read_word(word)).collect::<Result<Vec<Line>, Error>>()?;
    let files = Package::ALL.map(|package| package.file(&version));
    if let Some((name, _)) = words.iter().find(|(name, _)| !files.contains(name)) {
        let what = format!("`--sha256` speaks of `{name}`, which is not fetched");
        let hint = format!("name `{}` and `{}`", files[0], files[1]);
        return Err(Error::new(Exit::Usage, what).hint(hint));
    }
    let list = options.checksums.as_deref().map(read_list).transpose()?;
    let [docker, extras] = Package::ALL.map(|package| {
        let file = package.file(&version);
        let place = origin.place(&file)?;
        let sum = sum_of(&words, list.as_deref(), &channel, &file, &place, client)?;
        if sum.is_none() {
            check_insecure(options, &file, &place)?;
        }
        Ok(Archive { package, file, place, sum })
    });
    let archives: [Archive; 2] = [docker?, extras?];
    let is_beside = |archive: &&Archive| matches!(archive.sum, Some((_, Voucher::Beside)));
    if let Some(archive) = archives.iter().find(is_beside) {
        warn!(
            "nobody but whoever keeps {} vouches for it: its sum is from the file beside it, which tells damage and no more",
            archive.place
        );
    }
    Ok(Plan { version, archives })
}

fn channel(environment: &Environment, options: &FetchOptions) -> Result<String, Error> {
    let stated = environment.get("CHANNEL").map(|channel| channel.to_string_lossy().into_owned());
    let channel = options.channel.clone().or(stated).unwrap_or_else(|| "stable".to_owned());
    match fetch::is_channel(&channel) {
        true => Ok(channel),
        false => {
            let what = format!("`{channel}` cannot be the name of a channel");
            Err(Error::new(Exit::Usage, what)
                .hint("take one of Docker's: --channel stable, --channel test"))
        }
    }
}

/// Where tarballs are looked for.
enum Origin {
    Directory(PathBuf),
    Server(Url),
}

impl Origin {
    fn find(
        environment: &Environment,
        options: &FetchOptions,
        channel: &str,
    ) -> Result<Self, Error> {
        if let Some(directory) = &options.offline {
            return Ok(Self::Directory(directory.clone()));
        }
        let stated = environment.get("DOCKERD_ROOTLESS_MIRROR");
        let stated = stated.map(|mirror| mirror.to_string_lossy().into_owned());
        let mirror = options.mirror.clone().or(stated);
        let mirror = mirror.unwrap_or_else(|| DOCKERS_MIRROR.to_owned());
        let refuse = |why: String| {
            let what = format!("`{mirror}` is no address of a mirror: {why}");
            Error::new(Exit::Usage, what).hint("--mirror https://HOST/DIRECTORY")
        };
        let directory = fetch::directory(channel, fetch::architecture());
        let url = Url::parse(&mirror).and_then(|url| url.join(&directory)).map_err(refuse)?;
        match url.is_allowed(policy(options)) {
            true => Ok(Self::Server(url)),
            false => {
                let what = format!("the mirror `{mirror}` is not https");
                let hint = "if you trust the network on the way: --insecure-http";
                Err(Error::new(Exit::Usage, what).hint(hint))
            }
        }
    }

    fn place(&self, file: &str) -> Result<Place, Error> {
        Ok(match self {
            Self::Directory(directory) => Place::File(directory.join(file)),
            Self::Server(url) => {
                let url = url.join(file);
                Place::Server(url.map_err(|why| {
                    Error::new(Exit::Usage, format!("`{file}` is no name: {why}"))
                })?)
            }
        })
    }

    /// The newest version that is there.
    fn newest(&self, client: &Client<'_>) -> Result<Version, Error> {
        let (index, shown) = match self {
            Self::Directory(directory) => {
                let entries = std::fs::read_dir(directory)
                    .map_err(|error| failed(directory, "cannot be read", &error))?;
                let names =
                    entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
                (names.collect::<Vec<_>>().join("\n"), directory.display().to_string())
            }
            Self::Server(url) => {
                let index = url.join("").map_err(|why| Error::new(Exit::Usage, why))?;
                let text = retrying(|| client.text(&index, INDEX_MAX)).map_err(|failure| {
                    failure
                        .into_error()
                        .hint("name a version: --version VERSION; or another mirror or channel")
                })?;
                (text, index.to_string())
            }
        };
        fetch::versions_in_index(&index).pop().ok_or_else(|| {
            let what = format!("`{shown}` names no version of which both tarballs are there");
            Error::new(Exit::Failed, what)
                .hint("name a version: --version VERSION; or another mirror or channel")
        })
    }
}

fn version(
    options: &FetchOptions,
    channel: &str,
    origin: &Origin,
    client: &Client<'_>,
) -> Result<Version, Error> {
    match (options.version.as_deref(), origin) {
        (Some("latest"), _) | (None, Origin::Directory(_)) => origin.newest(client),
        (Some(text), _) => Version::parse(text).ok_or_else(|| {
            let what = format!("`{text}` is no version");
            Error::new(Exit::Usage, what).hint("--version 29.6.2, or --version latest")
        }),
        (None, Origin::Server(_)) => {
            let Some(known) = checksum::newest_in_table(channel, fetch::architecture()) else {
                return origin.newest(client);
            };
            info!(
                "{known} is the newest version in the built-in list of checksums, which is of {}; for the newest one there is: --version latest",
                checksum::table_date()
            );
            Ok(known)
        }
    }
}

/// `FILE=SUM`.
fn read_word(word: &str) -> Result<Line, Error> {
    let parsed =
        word.rsplit_once('=').and_then(|(file, sum)| Some((file.to_owned(), Sum::parse(sum)?)));
    parsed.ok_or_else(|| {
        let what = format!("`--sha256 {word}`: expected FILE=SUM with 64 hexadecimal digits");
        Error::new(Exit::Usage, what).hint("sha256sum FILE tells the sum of a file that you trust")
    })
}

fn read_list(path: &Path) -> Result<Vec<Line>, Error> {
    let bytes = files::read_regular(path, LIST_MAX)
        .map_err(|error| failed(path, "cannot be read", &error))?;
    let text = bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let refuse = |why: String| {
        let what = format!("`{}` is no list of checksums: {why}", path.display());
        Error::new(Exit::Usage, what).hint("make one from files that you trust: sha256sum *.tgz")
    };
    let text = text.ok_or_else(|| refuse("it is too large".to_owned()))?;
    checksum::parse_list(&text)
        .map_err(|(number, line)| refuse(format!("line {number} is `{line}`")))
}

/// The sum by the first source that has one.
fn sum_of(
    words: &[Line],
    list: Option<&[Line]>,
    channel: &str,
    file: &str,
    place: &Place,
    client: &Client<'_>,
) -> Result<Option<(Sum, Voucher)>, Error> {
    let stated = checksum::find(words, file).map(|sum| (sum, Voucher::Word));
    let stated = stated.or_else(|| Some((checksum::find(list?, file)?, Voucher::File)));
    let table = || checksum::find_in_table(channel, fetch::architecture(), file);
    if let Some(found) = stated.or_else(|| Some((table()?, Voucher::Table))) {
        return Ok(Some(found));
    }
    let text = match place {
        Place::File(path) => {
            let mut beside = path.clone().into_os_string();
            beside.push(".sha256");
            match files::read_regular(Path::new(&beside), LIST_MAX) {
                Ok(bytes) => bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
                Err(error) => return Err(failed(Path::new(&beside), "cannot be read", &error)),
            }
        }
        Place::Server(url) => {
            let beside = Url::parse(&format!("{}.sha256", url.uri()));
            let beside = beside.map_err(|why| Error::new(Exit::Usage, why))?;
            match retrying(|| client.text(&beside, LIST_MAX)) {
                Ok(text) => Some(text),
                Err(Failure::Absent(_)) => None,
                Err(other) => return Err(other.into_error()),
            }
        }
    };
    let Some(text) = text else {
        return Ok(None);
    };
    match checksum::parse_beside(&text, file) {
        Some(sum) => Ok(Some((sum, Voucher::Beside))),
        None => {
            let what = format!("the `.sha256` file beside {place} names no sum of `{file}`");
            Err(Error::new(Exit::Integrity, what).hint(format!("--sha256 {file}=SUM")))
        }
    }
}

fn check_insecure(options: &FetchOptions, file: &str, place: &Place) -> Result<(), Error> {
    if options.insecure_no_checksum {
        warn!(
            "nobody vouches for {place}: it is taken WITHOUT A CHECKSUM, as --insecure-no-checksum says"
        );
        return Ok(());
    }
    let what = format!(
        "no checksum of `{file}` is known: neither in words, nor built in, nor beside {place}"
    );
    Err(Error::new(Exit::Integrity, what).hint(format!(
        "--sha256 {file}=SUM, or --checksums FILE; or, if you trust whoever is on the way, --insecure-no-checksum"
    )))
}

/// Tries a small request a few times.
fn retrying<T>(mut ask: impl FnMut() -> Result<T, Failure>) -> Result<T, Failure> {
    for _ in 0..2 {
        match ask() {
            Err(Failure::Passing(error)) => {
                debug!("{error}; tries again");
                std::thread::sleep(Duration::from_millis(300));
            }
            other => return other,
        }
    }
    ask()
}
