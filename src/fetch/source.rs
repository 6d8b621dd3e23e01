//! Finds out which version to get, where its tarballs are, and which sums they must have.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tracing::{info, warn};

use crate::error::{Error, Exit};
use crate::fetch::checksum::{self, Line, Sum, Voucher};
use crate::fetch::download::{Client, Url};
use crate::fetch::plan::{Source, Tarball};
use crate::fetch::store::failed;
use crate::fetch::{Package, Version, architecture, versions_in_index};
use crate::sys::files;

/// Docker's own server.
const DOCKERS_MIRROR: &str = "https://download.docker.com";

/// The largest list of sums in bytes.
const LIST_MAX: u64 = 1 << 20;

/// What the options ask for.
pub struct Request<'a> {
    pub version: Option<&'a str>,
    pub channel: String,
    pub mirror: Option<String>,
    pub offline: Option<&'a Path>,
    pub sha256: &'a [String],
    pub checksums: Option<&'a Path>,
    pub insecure_no_checksum: bool,
    pub insecure_http: bool,
}

/// Where tarballs are looked for.
enum Origin {
    Directory(PathBuf),
    Server(Url),
}

impl Request<'_> {
    /// Decides on the version and finds the sums. Asks the mirror if it must.
    pub fn resolve(&self, client: &Client) -> Result<(Version, [Tarball; 2]), Error> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if !self.channel.starts_with(|c: char| c.is_ascii_alphanumeric())
            || !self.channel.chars().all(is_plain)
        {
            let what = format!("`{}` is not the name of a channel", self.channel);
            return Err(Error::new(Exit::Usage, what).hint("--channel stable, or --channel test"));
        }
        let origin = self.origin()?;
        let version = self.version(&origin, client)?;
        let lines = self.lines(&version)?;
        let list = self.checksums.map(read_list).transpose()?.unwrap_or_default();
        let tarball = |package: Package| {
            let file = package.file(&version);
            let source = origin.source(&file, self)?;
            let sum = self.sum(&lines, &list, &file, &source, client)?;
            Ok::<_, Error>(Tarball { package, file, source, sum })
        };
        let tarballs = [tarball(Package::Docker)?, tarball(Package::Extras)?];
        Ok((version, tarballs))
    }

    /// Returns `CHANNEL/ARCH`.
    fn directory(&self) -> String {
        format!("{}/{}", self.channel, architecture())
    }

    fn origin(&self) -> Result<Origin, Error> {
        if let Some(directory) = self.offline {
            return Ok(Origin::Directory(directory.to_owned()));
        }
        let mirror = self.mirror.as_deref().unwrap_or(DOCKERS_MIRROR);
        let root = mirror.trim_end_matches('/').trim_end_matches("/linux/static");
        let url = Url::parse(root).map_err(|why| {
            let what = format!("`{mirror}` is not the address of a mirror: {why}");
            Error::new(Exit::Usage, what).hint("--mirror https://HOST/DIRECTORY")
        })?;
        if !url.is_https() && !url.is_loopback() && !self.insecure_http {
            let what = format!("the mirror `{url}` is not https");
            let hint = "if you trust the network in between: --insecure-http";
            return Err(Error::new(Exit::Usage, what).hint(hint));
        }
        Ok(Origin::Server(url.with(&format!("/linux/static/{}/", self.directory()))))
    }

    fn version(&self, origin: &Origin, client: &Client) -> Result<Version, Error> {
        if let Some(text) = self.version.filter(|text| *text != "latest") {
            return Version::parse(text).ok_or_else(|| {
                let what = format!("`{text}` is not a version");
                Error::new(Exit::Usage, what).hint("--version 29.6.2, or --version latest")
            });
        }
        if let (None, Origin::Server(_), Some(known)) =
            (self.version, origin, checksum::newest_in_table(&self.directory()))
        {
            info!(
                "{known} is the newest version in the built-in list of checksums, which is of {}; for the newest on the mirror: --version latest",
                checksum::table_date()
            );
            return Ok(known);
        }
        let index = origin.index(client)?;
        versions_in_index(&index).pop().ok_or_else(|| origin.lacks("docker-V.tgz", self))
    }

    /// Reads the `--sha256` options.
    fn lines(&self, version: &Version) -> Result<Vec<Line>, Error> {
        let [docker, extras] = Package::ALL.map(|package| package.file(version));
        let read = |option: &String| {
            let parsed = option.rsplit_once('=');
            let parsed = parsed.and_then(|(file, sum)| Some((file.to_owned(), Sum::parse(sum)?)));
            let why = match &parsed {
                Some((file, _)) if *file == docker || *file == extras => return Ok(parsed),
                Some((file, _)) => format!("`{file}` is not one of the files to fetch"),
                None => "expected FILE=SUM with 64 hexadecimal digits".to_owned(),
            };
            let what = format!("`--sha256 {option}`: {why}");
            Err(Error::new(Exit::Usage, what)
                .hint(format!("--sha256 {docker}=SUM --sha256 {extras}=SUM")))
        };
        self.sha256.iter().filter_map(|option| read(option).transpose()).collect()
    }

    /// Returns the sum by the most trusted source that has one.
    fn sum(
        &self,
        lines: &[Line],
        list: &[Line],
        file: &str,
        source: &Source,
        client: &Client,
    ) -> Result<Option<(Sum, Voucher)>, Error> {
        let known = checksum::find(lines, file).map(|sum| (sum, Voucher::Option));
        let known = known.or_else(|| Some((checksum::find(list, file)?, Voucher::List)));
        let table = || checksum::find_in_table(&self.directory(), file);
        if let Some(known) = known.or_else(|| Some((table()?, Voucher::Table))) {
            return Ok(Some(known));
        }
        match source.beside(client)? {
            Some(text) => match checksum::parse_beside(&text, file) {
                Some(sum) => {
                    warn!(
                        "`{file}` is checked against the mirror's own sum only, which a malicious mirror can replace as well"
                    );
                    Ok(Some((sum, Voucher::Beside)))
                }
                None => {
                    let what = format!("`{file}.sha256` beside the tarball has no sum of it");
                    Err(Error::new(Exit::Integrity, what).hint(format!("--sha256 {file}=SUM")))
                }
            },
            None if self.insecure_no_checksum => {
                warn!("`{file}` is taken WITHOUT A CHECKSUM (--insecure-no-checksum)");
                Ok(None)
            }
            None => {
                let what = format!("no checksum of `{file}` is known");
                let hint = format!(
                    "--sha256 {file}=SUM, or --checksums FILE; or, if you trust the server and the network: --insecure-no-checksum"
                );
                Err(Error::new(Exit::Integrity, what).hint(hint))
            }
        }
    }
}

impl Origin {
    fn source(&self, file: &str, request: &Request<'_>) -> Result<Source, Error> {
        match self {
            Self::Server(url) => Ok(Source::Server(url.with(file))),
            Self::Directory(directory) if directory.join(file).exists() => {
                Ok(Source::File(directory.join(file)))
            }
            Self::Directory(_) => Err(self.lacks(file, request)),
        }
    }

    /// Returns the names of the files that are there.
    fn index(&self, client: &Client) -> Result<String, Error> {
        match self {
            Self::Directory(directory) => {
                let entries = fs::read_dir(directory).into_iter().flatten().flatten();
                let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
                Ok(names.collect::<Vec<_>>().join("\n"))
            }
            Self::Server(url) => client.text(url)?.ok_or_else(|| {
                let what = format!("`{url}`: the server answers 404");
                Error::new(Exit::Failed, what)
                    .hint("name a version: --version VERSION; or another --channel or --mirror")
            }),
        }
    }

    fn lacks(&self, file: &str, request: &Request<'_>) -> Error {
        let place = match self {
            Self::Directory(directory) => directory.display().to_string(),
            Self::Server(url) => url.to_string(),
        };
        let names = match request.version.and_then(Version::parse) {
            Some(version) => Package::ALL.map(|package| package.file(&version)).join(" and "),
            None => "docker-VERSION.tgz and docker-rootless-extras-VERSION.tgz".to_owned(),
        };
        let what = format!("`{place}` has no `{file}` with its pair");
        let hint = format!(
            "it must hold {names}; Docker's are at {DOCKERS_MIRROR}/linux/static/{}/",
            request.directory()
        );
        Error::new(Exit::Failed, what).hint(hint)
    }
}

impl Source {
    /// Returns the text of the file `NAME.sha256` beside it.
    fn beside(&self, client: &Client) -> Result<Option<String>, Error> {
        match self {
            Self::Server(url) => client.text(&url.with(".sha256")),
            Self::File(path) => {
                let path = PathBuf::from(format!("{}.sha256", path.display()));
                match files::read_regular(&path, LIST_MAX) {
                    Ok(text) => Ok(text.map(|text| String::from_utf8_lossy(&text).into_owned())),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                    Err(error) => Err(failed(&path, "cannot be read", &error)),
                }
            }
        }
    }
}

/// Reads the file of `--checksums`.
fn read_list(path: &Path) -> Result<Vec<Line>, Error> {
    let bytes = files::read_regular(path, LIST_MAX)
        .map_err(|error| failed(path, "cannot be read", &error))?;
    let text = String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned();
    checksum::parse_list(&text).map_err(|(number, line)| {
        let what =
            format!("`{}` is not a list of checksums: line {number} is `{line}`", path.display());
        Error::new(Exit::Usage, what).hint("make one from files that you trust: sha256sum *.tgz")
    })
}
