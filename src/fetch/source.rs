//! Finds out which version to get, where its tarballs are, and which sums they must have.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::Args;
use tracing::{info, warn};

use crate::check::known;
use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::facts;
use crate::fetch::archive::sum_of;
use crate::fetch::checksum;
use crate::fetch::download::{Client, is_loopback};
use crate::fetch::store::{at, remove_tree};
use crate::fetch::{Package, Version, architecture, directory, newest_in};
use crate::sys::files;

/// Docker's own server.
const DOCKERS_MIRROR: &str = "https://download.docker.com";

/// The words that get a version whose sums are not built in.
const NEWER: &str = "--version VERSION --sha256 SUM,SUM";

/// The options that say what to fetch.
#[derive(Args)]
pub struct Request {
    /// A version, or `latest` for the newest on the mirror [default: the newest with a built-in checksum]
    #[arg(long, value_name = "VERSION")]
    version: Option<String>,
    /// One of Docker's channels [variable CHANNEL; default: stable]
    #[arg(long, value_name = "NAME")]
    channel: Option<String>,
    /// Another server than Docker's, with or without /linux/static [variable DOCKERD_ROOTLESS_MIRROR]
    #[arg(long, value_name = "URL")]
    mirror: Option<String>,
    /// Use archives from DIR, without network access
    #[arg(long, value_name = "DIR", conflicts_with = "mirror")]
    offline: Option<PathBuf>,
    /// The SHA-256 sums of both archives, docker's first; or FILE=SUM, once for each
    #[arg(long, value_name = "SUM,SUM")]
    sha256: Vec<String>,
    /// A list of such sums, as sha256sum writes it
    #[arg(long, value_name = "FILE")]
    checksums: Option<PathBuf>,
    /// Accept archives without a known checksum (dangerous: the network can replace them)
    #[arg(long)]
    insecure_no_checksum: bool,
    /// Use http, too (dangerous: the network can read and replace what is downloaded)
    #[arg(long)]
    pub insecure_http: bool,
    /// How many seconds a server may be silent
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = clap::value_parser!(u16).range(1..))]
    pub timeout: u16,
}

/// One tarball, with its sum and where that is from.
pub struct Tarball {
    pub package: Package,
    pub file: String,
    /// An address, or a path that begins with `/`.
    source: String,
    sum: Option<(String, &'static str)>,
}

impl Tarball {
    pub fn known_sum(&self) -> Option<&str> {
        self.sum.as_ref().map(|(sum, _)| &**sum)
    }

    /// Copies the tarball into a file of ours, which has no name any more, and returns that with its sum.
    /// Fails with exit 6 if the sum is wrong.
    pub fn get(&self, path: &Path, client: &Client) -> Result<(File, String), Error> {
        let mut file = at(path, files::open_own(path))?;
        remove_tree(path)?;
        if self.source.starts_with('/') {
            let source = Path::new(&self.source);
            let mut opened = at(source, files::open_regular(source))?.0;
            at(source, io::copy(&mut opened, &mut file))?;
        } else {
            client.tarball(&self.source, &file)?;
        }
        let sum = at(path, sum_of(&file))?;
        if let Some(expected) = self.known_sum().filter(|expected| *expected != sum) {
            let source = &self.source;
            let what = format!("`{source}` has the SHA-256 sum `{sum}` instead of `{expected}`");
            let hint = "nothing was changed; try another mirror: --mirror URL";
            return Err(Error::new(Exit::Integrity, what).hint(hint));
        }
        Ok((file, sum))
    }
}

impl fmt::Display for Tarball {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = &self.source;
        match &self.sum {
            Some((sum, voucher)) => {
                write!(out, "`{source}` with the SHA-256 sum {sum} of {voucher}")
            }
            None => write!(out, "`{source}` WITHOUT A CHECKSUM"),
        }
    }
}

impl Request {
    /// Decides on the version and finds the sums. Asks the mirror if it must.
    pub fn resolve(
        &self,
        environment: &Environment,
        client: &Client,
    ) -> Result<(Version, [Tarball; 2]), Error> {
        let channel = given(self.channel.as_ref(), environment, "CHANNEL", "stable");
        let place = format!("{channel}/{}", architecture());
        let origin = self.origin(environment, &directory(&channel, architecture()))?;
        let version = self.version(&origin, &place, client)?;
        warn_of_holes(&version);
        let lists = self.lists(&version)?;
        let tarball = |package: Package| {
            let file = package.file(&version);
            let source = format!("{origin}{file}");
            if source.starts_with('/') && !Path::new(&source).exists() {
                return Err(self.lacks(&origin, &place));
            }
            let names = [&file, &file, &format!("{place}/{file}")];
            let known = lists.iter().zip(names).find_map(|((voucher, lines), name)| {
                Some((checksum::find(lines, name)?, *voucher))
            });
            let sum = match known {
                Some(known) => Some(known),
                None => self.sum_beside(&file, &source, client)?,
            };
            Ok(Tarball { package, file, source, sum })
        };
        let tarballs = [tarball(Package::Docker)?, tarball(Package::Extras)?];
        Ok((version, tarballs))
    }

    /// Returns the directory of the tarballs, which is `directory` on a server; with a slash at its end.
    fn origin(&self, environment: &Environment, directory: &str) -> Result<String, Error> {
        if let Some(path) = &self.offline {
            return Ok(format!("{}/", at(path, std::path::absolute(path))?.display()));
        }
        let mirror =
            given(self.mirror.as_ref(), environment, "DOCKERD_ROOTLESS_MIRROR", DOCKERS_MIRROR);
        let root = mirror.trim_end_matches('/').trim_end_matches("/linux/static");
        let rest = root.strip_prefix("https://").or_else(|| root.strip_prefix("http://"));
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._~:/[]%+=,".contains(c);
        if rest.is_none_or(|rest| rest.is_empty() || !rest.chars().all(is_plain)) {
            let what = format!("`{mirror}` is not the address of a mirror");
            return Err(Error::new(Exit::Usage, what).hint("--mirror https://HOST/DIRECTORY"));
        }
        if root.starts_with("http:") && !is_loopback(root) && !self.insecure_http {
            let what = format!("the mirror `{root}` is not https");
            let hint = "if you trust the network in between: --insecure-http";
            return Err(Error::new(Exit::Usage, what).hint(hint));
        }
        Ok(format!("{root}/{directory}/"))
    }

    fn version(&self, origin: &str, place: &str, client: &Client) -> Result<Version, Error> {
        if let Some(text) = self.version.as_ref().filter(|text| *text != "latest") {
            return Version::parse(text).ok_or_else(|| {
                let what = format!("`{text}` is not a version");
                Error::new(Exit::Usage, what).hint("--version 29.6.2, or --version latest")
            });
        }
        if let Some(directory) = &self.offline {
            let entries = fs::read_dir(directory).into_iter().flatten().flatten();
            let names = entries.map(|entry| entry.file_name().display().to_string());
            let names = names.collect::<Vec<_>>().join("\n");
            return newest_in(&names).ok_or_else(|| self.lacks(origin, place));
        }
        if let (None, Some(known)) = (&self.version, checksum::newest_in_table(place)) {
            let date = checksum::table_date();
            match known::months_since(date, SystemTime::now()) {
                months @ known::OLD.. => warn!(
                    "the newest version that this program knows is {}, and its list is {months} months old; for a newer one: {NEWER}",
                    known.text
                ),
                _ => info!(
                    "{} is the newest version in the built-in list of checksums, which is of {date}; for the newest on the mirror: --version latest",
                    known.text
                ),
            }
            return Ok(known);
        }
        let index = client.text(origin)?.unwrap_or_default();
        newest_in(&index).ok_or_else(|| self.lacks(origin, place))
    }

    /// Returns the known sums with where they are from, the most trusted first.
    fn lists(&self, version: &Version) -> Result<[(&'static str, Vec<checksum::Line>); 3], Error> {
        let files = Package::ALL.map(|package| package.file(version));
        let mut options = Vec::new();
        for option in &self.sha256 {
            let Some(sums) = read_sums(option, &files) else {
                let [docker, extras] = &files;
                let what = format!(
                    "`--sha256 {option}` is neither the sums of both files nor one of the files and its sum"
                );
                let hint = format!("--sha256 SUM,SUM of {docker} and {extras}");
                return Err(Error::new(Exit::Usage, what).hint(hint));
            };
            options.extend(sums);
        }
        let list = self.checksums.as_deref().map(read_list).transpose()?.unwrap_or_default();
        let table = checksum::parse_list(checksum::TABLE).unwrap_or_default();
        Ok([("`--sha256`", options), ("`--checksums`", list), ("the built-in table", table)])
    }

    /// Returns the sum in the file beside the tarball, if there is one.
    fn sum_beside(
        &self,
        file: &str,
        source: &str,
        client: &Client,
    ) -> Result<Option<(String, &'static str)>, Error> {
        let beside = format!("{source}.sha256");
        let text = match source.starts_with('/') {
            true => fs::read_to_string(beside).ok(),
            false => client.text(&beside)?,
        };
        // A sum alone, or a line of sha256sum.
        let first = text.as_ref().and_then(|text| text.split_whitespace().next());
        let Some(sum) = first.and_then(checksum::parse) else {
            if text.is_none() && self.insecure_no_checksum {
                warn!("`{file}` is taken WITHOUT A CHECKSUM (--insecure-no-checksum)");
                return Ok(None);
            }
            let what = format!("no checksum of `{file}` is known");
            let hint = format!(
                "--sha256 {file}=SUM, or --checksums FILE; or, if you trust the server and the network: --insecure-no-checksum"
            );
            return Err(Error::new(Exit::Integrity, what).hint(hint));
        };
        warn!(
            "`{file}` is checked against the mirror's own sum only, which a malicious mirror can replace as well"
        );
        Ok(Some((sum, "the `.sha256` file beside it")))
    }

    fn lacks(&self, origin: &str, place: &str) -> Error {
        let version = self.version.as_ref().filter(|text| *text != "latest");
        let version = version.map_or("VERSION", String::as_str);
        let what = format!("`{origin}` does not have both tarballs");
        let hint = format!(
            "it must hold docker-{version}.tgz and docker-rootless-extras-{version}.tgz; Docker's are at {DOCKERS_MIRROR}/linux/static/{place}/"
        );
        Error::new(Exit::Failed, what).hint(hint)
    }
}

/// Reads `SUM,SUM` of both `files`, or `FILE=SUM` of one.
fn read_sums(option: &str, files: &[String; 2]) -> Option<Vec<checksum::Line>> {
    let pairs = match (option.split_once('='), option.split_once(',')) {
        (Some((file, sum)), _) => vec![(files.iter().find(|own| *own == file)?, sum)],
        (None, Some((docker, extras))) => vec![(&files[0], docker), (&files[1], extras)],
        (None, None) => return None,
    };
    let line = |(file, sum): (&String, _)| Some((file.clone(), checksum::parse(sum)?));
    pairs.into_iter().map(line).collect()
}

/// Warns if dockerd of `version` has known security holes.
fn warn_of_holes(version: &Version) {
    let Some(number) = facts::Version::find(&version.text) else { return };
    for hole in known::KNOWN.holes("dockerd", number) {
        warn!(
            "Docker {} has known security holes: {}; for a newer version: {NEWER}",
            version.text, hole.what
        );
    }
}

/// Returns the value of an option, of its variable, or the default.
fn given(
    option: Option<&String>,
    environment: &Environment,
    variable: &str,
    default: &str,
) -> String {
    let variable = environment.get(variable).map(|value| value.to_string_lossy().into_owned());
    option.cloned().or(variable).unwrap_or_else(|| default.to_owned())
}

/// Reads the file of `--checksums`.
fn read_list(path: &Path) -> Result<Vec<checksum::Line>, Error> {
    let text = at(path, fs::read_to_string(path))?;
    checksum::parse_list(&text).map_err(|line| {
        let what = format!("`{}` is not a list of checksums: `{line}`", path.display());
        Error::new(Exit::Usage, what).hint("make one from files that you trust: sha256sum *.tgz")
    })
}
