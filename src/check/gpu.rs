//! `gpu`: whether containers can use an NVIDIA GPU, and other devices that are described by the
//! Container Device Interface (CDI).

use std::path::{Path, PathBuf};

use crate::check::evidence::Evidence;
use crate::check::finding::Finding;
use crate::check::fix::quoted;
use crate::facts::Version;

/// The first dockerd that knows CDI (moby#45134).
const KNOWS_CDI: Version = Version(25, 0, 0);

/// The first one for which CDI need not be turned on (moby 4cecce03f6).
const CDI_IS_ON: Version = Version(28, 2, 0);

/// The first one that also reads the user's own directories (moby cd4397b4dc).
const READS_OWN: Version = Version(29, 2, 0);

/// Judges the files that describe devices, and NVIDIA's own configuration.
pub fn gpu(evidence: &Evidence<'_>) -> Finding {
    let gpu = &evidence.survey.gpu;
    if !gpu.nvidia && gpu.specs.is_empty() {
        return Finding::skip("no NVIDIA GPU and no CDI devices");
    }
    let Some(version) = evidence.dockerd_version() else {
        return Finding::skip("dockerd's version is unknown");
    };
    let directories = directories(evidence, version);
    let is_read = |path: &Path| {
        let parent = path.parent().unwrap_or(path);
        version >= KNOWS_CDI
            && is_on(evidence, version)
            && directories.iter().any(|own| own == parent)
    };
    let wanted = gpu.specs.iter().filter(|(_, is_nvidia)| *is_nvidia || !gpu.nvidia);
    let wanted: Vec<&Path> = wanted.map(|(path, _)| path.as_path()).collect();
    if let Some(path) = wanted.iter().find(|path| is_read(path)) {
        return Finding::ok(format!("dockerd reads the CDI devices in `{}`", path.display()));
    }
    if let Some((path, true)) = &gpu.toolkit {
        let set = format!("`no-cgroups = true` in `{}`", path.display());
        return Finding::ok(format!("containers can use the GPU with `--gpus`: {set}"));
    }
    let finding = match wanted.first() {
        Some(path) => unread(evidence, version, path),
        None => unwritten(version, evidence),
    };
    match &gpu.toolkit {
        Some((path, _)) => finding.because(format!(
            "`--gpus` without CDI needs `no-cgroups = true` in `{}`, which breaks it for the system-wide Docker: `nvidia-ctk config --set nvidia-container-cli.no-cgroups=true --in-place`",
            path.display()
        )),
        None => finding,
    }
}

/// Returns the directories in which this dockerd looks for devices.
fn directories(evidence: &Evidence<'_>, version: Version) -> Vec<PathBuf> {
    let session = &evidence.host.session;
    let args = evidence.settings.args();
    let listed = session.daemon_json.texts("cdi-spec-dirs").map(PathBuf::from);
    let stated: Vec<PathBuf> =
        args.values("cdi-spec-dir").map(PathBuf::from).chain(listed).collect();
    if !stated.is_empty() {
        return stated;
    }
    let own = evidence.environment.config_home().map(|home| home.join("cdi"));
    let own = own.into_iter().chain([session.places.runtime_dir.join("cdi")]);
    let own = own.filter(|_| version >= READS_OWN);
    ["/etc/cdi", "/var/run/cdi"].into_iter().map(PathBuf::from).chain(own).collect()
}

fn is_on(evidence: &Evidence<'_>, version: Version) -> bool {
    let args = evidence.settings.args();
    let mut features = args.values("feature");
    let stated = evidence.host.session.daemon_json.switch("cdi");
    features.any(|feature| feature == "cdi" || feature == "cdi=true")
        || stated.unwrap_or(version >= CDI_IS_ON)
}

/// Reports devices that dockerd does not look at.
fn unread(evidence: &Evidence<'_>, version: Version, path: &Path) -> Finding {
    let json = evidence.host.session.places.daemon_json.display();
    let finding =
        Finding::problem(format!("dockerd does not read the CDI devices in `{}`", path.display()));
    if version < KNOWS_CDI {
        return finding.tell(format!("dockerd {version} does not know CDI: install 25.0 or later"));
    }
    if !is_on(evidence, version) {
        let line = r#""features": {"cdi": true}"#;
        return finding.tell(format!("turn CDI on: write `{line}` into `{json}`"));
    }
    let parent = path.parent().unwrap_or(path).display();
    finding.tell(format!("write `\"cdi-spec-dirs\": [\"{parent}\"]` into `{json}`"))
}

/// Reports a GPU that nothing describes.
fn unwritten(version: Version, evidence: &Evidence<'_>) -> Finding {
    let finding =
        Finding::problem("containers cannot use the NVIDIA GPU: no CDI file describes it");
    let finding = match evidence.survey.gpu.toolkit {
        Some(_) => finding,
        None => finding.because("the command needs NVIDIA's container toolkit"),
    };
    let own = evidence.environment.config_home().filter(|_| version >= READS_OWN);
    let directory = own.as_ref().map_or("/etc/cdi".into(), |home| home.join("cdi"));
    let [place, file] = [quoted(&directory), quoted(directory.join("nvidia.yaml"))];
    let command = format!("mkdir -p {place} && nvidia-ctk cdi generate --output={file}");
    match own {
        Some(_) => finding.user(command),
        None => finding.root(command),
    }
}
