//! `install --from-rootful`: the commands that move images, volumes and projects of the system-wide Docker.

use std::ffi::OsStr;
use std::path::Path;

use nix::unistd::{AccessFlags, access};

use crate::cli::output::print;
use crate::environment::Environment;
use crate::error::{Error, Exit};
use crate::facts::places::{api_socket, unix_url};
use crate::setup::Home;
use crate::words;

/// The commands. Functions and command substitutions do the same in all POSIX shells and in zsh.
const SCRIPT: &str = r#"# This moves images, volumes and projects of the system-wide Docker to yours.
# Nothing is done yet. Read it, and paste one part after the other into sh, bash or zsh.
# Your daemon has to run: @OWN@ install
rootful() { @SUDO@docker --host @ROOTFUL@ "$@"; }
rootless() { docker --host @ROOTLESS@ "$@"; }

# Images with a tag
rootful save $(rootful image ls --filter dangling=false --format '{{.Repository}}:{{.Tag}}' | grep -v '<none>') | rootless load

# Volumes. This stops all containers first, also those of other users: they must not write meanwhile.
# Owners stay what they are in containers. A user above 65535 does not exist there, and tar says so.
containers=$(rootful ps --quiet)
[ -z "$containers" ] || rootful stop $(rootful ps --quiet)
for volume in $(rootful volume ls --quiet --filter driver=local); do
    if rootless volume inspect "$volume" >/dev/null 2>&1; then
        echo "skipped, because you have a volume of this name: $volume"
        continue
    fi
    if [ "$(rootful volume inspect --format '{{len .Options}}' "$volume")" != 0 ]; then
        echo "skipped, because it has options: $volume"
        continue
    fi
    rootless volume create $(rootful volume inspect --format '{{range $key, $value := .Labels}}--label {{$key}}={{$value}} {{end}}' "$volume") "$volume" || continue
    from=$(rootful volume inspect --format '{{.Mountpoint}}' "$volume")
    to=$(rootless volume inspect --format '{{.Mountpoint}}' "$volume")
    sudo tar -C "$from" --numeric-owner -cf - . | @OWN@ unshare -- tar -C "$to" --numeric-owner -xpf -
done

# Containers are made anew from your docker run lines, and projects from their directories:
#     sudo docker compose down; docker compose up --detach
rootful ps --all --format 'table {{.Names}}\t{{.Image}}\t{{.Ports}}\t{{.Label "com.docker.compose.project.working_dir"}}'
# Ports below 1024 need a setting:
@OWN@ check -v --only privileged-ports
# Directories that containers mount keep their owners, so containers see most files as those of nobody:
#     @OWN@ ids 999             shows which user of this host user 999 of containers is
#     sudo chown -R USER:GROUP DIRECTORY

# When all of that works, take away the right to control the system-wide Docker, and end its service.
# Its data stay in its data root.
#     @OWN@ check --only rootful-docker --print-fix=root | sudo sh -eux
#     sudo systemctl disable --now docker.service docker.socket
"#;

/// Prints the commands for the system-wide daemon at `socket`.
pub fn run(environment: &Environment, called: &OsStr, socket: &Path) -> Result<Exit, Error> {
    let home = Home::find(environment, called)?;
    let is_writable = access(socket, AccessFlags::W_OK).is_ok();
    let quoted = |word: &OsStr| words::quote(word).display().to_string();
    let script = SCRIPT
        .replace("@SUDO@", if is_writable { "" } else { "sudo " })
        .replace("@ROOTFUL@", &quoted(&unix_url(socket)))
        .replace("@ROOTLESS@", &quoted(&unix_url(&api_socket(&home.runtime_dir))))
        .replace("@OWN@", &quoted(home.program.as_os_str()));
    print(script).map(|()| Exit::Good)
}
