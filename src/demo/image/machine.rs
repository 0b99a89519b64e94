//! What the image is built from: the release, the mirrors and the network settings that this machine's own apt uses.
//! Nothing of it may end up in an image.

use std::time::Duration;

use super::ImageError;
use crate::process::Program;

const LIMIT: Duration = Duration::from_secs(30);

/// Which system the machine runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct System {
    /// Code name of the Debian release.
    pub release: String,
    /// Debian's name of the architecture.
    pub architecture: String,
}

impl System {
    /// Asks the machine; works without a mirror.
    pub async fn look() -> Result<Self, ImageError> {
        let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
        let release = code_name(&release).unwrap_or("unknown").to_owned();
        let architecture = ask("dpkg", &["--print-architecture"]).await?.trim().to_owned();
        Ok(Self { release, architecture })
    }
}

/// Where the machine's own apt finds packages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Lines for a `sources.list`: the release, its updates, its security updates.
    pub sources: Vec<String>,
    /// Settings of apt without which the mirror may be out of reach, as `Name "value";`.
    pub settings: Vec<String>,
}

impl Mirror {
    /// Asks apt.
    pub async fn look(system: &System) -> Result<Self, ImageError> {
        let release = &system.release;
        let format = "$(REPO_URI) $(CODENAME) $(COMPONENT) $(ORIGIN)";
        let targets = ask("apt-get", &["indextargets", "--format", format, "Created-By: Packages"]).await?;
        let sources = sources(&targets, release);
        if !sources.iter().any(|source| source.ends_with(&format!(" {release} main"))) {
            return Err(ImageError::NoMirror { release: release.clone() });
        }
        let settings = network_settings(&ask("apt-config", &["dump", "Acquire"]).await?);
        Ok(Self { sources, settings })
    }
}

async fn ask(program: &str, arguments: &[&str]) -> Result<String, ImageError> {
    let mut command = std::process::Command::new(program);
    command.args(arguments).env("LC_ALL", "C.UTF-8");
    Ok(Program::from(command).limit(LIMIT).run().await.map_err(ImageError::Machine)?.stdout)
}

fn code_name(os_release: &str) -> Option<&str> {
    let value = os_release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="))?;
    Some(value.trim_matches('"'))
}

/// The mirrors of this release among apt's index targets (`URI code-name component origin`).
fn sources(targets: &str, release: &str) -> Vec<String> {
    let suites = [release.to_owned(), format!("{release}-updates"), format!("{release}-security")];
    let mut sources = Vec::new();
    for line in targets.lines() {
        let [uri, suite, "main", "Debian"] = line.split_whitespace().collect::<Vec<_>>()[..] else { continue };
        let source = format!("deb {uri} {suite} main");
        if suites.iter().any(|known| known == suite) && !sources.contains(&source) {
            sources.push(source);
        }
    }
    sources
}

/// The settings of apt that say how a mirror is reached and how fresh it must be.
fn network_settings(dump: &str) -> Vec<String> {
    const WANTED: [&str; 4] = ["Acquire::http::", "Acquire::https::", "Acquire::Check-", "Acquire::Retries"];
    let wanted = dump.lines().filter(|line| WANTED.iter().any(|name| line.starts_with(name)));
    wanted.filter(|line| !line.ends_with(" \"\";")).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_is_the_machines_own() {
        assert_eq!(code_name("ID=debian\nVERSION_CODENAME=trixie\n"), Some("trixie"));
        assert_eq!(code_name("VERSION_CODENAME=\"trixie\"\n"), Some("trixie"));
        assert_eq!(code_name("ID=debian\n"), None);
    }

    #[test]
    fn only_debians_own_mirrors_of_the_release_are_taken() {
        let targets = "http://mirror.example/debian/ trixie main Debian\n\
                       http://mirror.example/debian/ trixie contrib Debian\n\
                       http://mirror.example/debian/ forky main Debian\n\
                       http://mirror.example/security/ trixie-security main Debian\n\
                       http://mirror.example/security/ trixie-security main Debian\n\
                       http://tools.example/ trixie main Somebody\n\
                       http://odd.example/ main\n";
        assert_eq!(
            sources(targets, "trixie"),
            [
                "deb http://mirror.example/debian/ trixie main",
                "deb http://mirror.example/security/ trixie-security main"
            ]
        );
    }

    #[test]
    fn only_settings_about_the_network_are_passed_on() {
        let dump = "Acquire \"\";\n\
                    Acquire::http \"\";\n\
                    Acquire::http::Proxy \"http://proxy.example:3128\";\n\
                    Acquire::http::Pipeline-Depth \"\";\n\
                    Acquire::Check-Valid-Until \"false\";\n\
                    Acquire::Languages \"none\";\n";
        assert_eq!(
            network_settings(dump),
            ["Acquire::http::Proxy \"http://proxy.example:3128\";", "Acquire::Check-Valid-Until \"false\";"]
        );
    }
}
