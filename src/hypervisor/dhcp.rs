//! Runs the DHCP server of a node where there is to be one, under a shim of its own: it goes on while the daemon is replaced, and
//! the next one finds it. What it reads comes from `network`.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::{Instant, sleep};
use tracing::warn;

use super::{
    HypervisorError,
    shims::{Shims, exit, failed, last_line, not_started, program},
};
use crate::{
    keeper::{ShimDir, ShimSpec, client},
    network::{Family, Network},
};

/// Between its end and another try.
const PAUSE: Duration = Duration::from_secs(2);

/// The server, which also tells of these name servers. Where there is to be none, one from before ends.
pub async fn start(network: &Network, shims: &Shims, name_servers: &[String]) -> Result<(), HypervisorError> {
    let Some(file) = network.dhcp() else { return end(&ShimDir::new(shims.beside("dhcp"))).await };
    let dir = ShimDir::new(of(file));
    let spec = ShimSpec { argv: command(file, name_servers)?, output: output(file), ..ShimSpec::default() };
    let failed =
        |what: &str, path: &Path, error| failed(format!("cannot {what} {}", path.display()), None, Some(error));
    let text = fs::read_to_string(file).map_err(|error| failed("read", file, error))?;
    let (started_with, start_with) = (file.with_extension("started"), format!("{}\n{text}", spec.argv.join(" ")));
    if client::status(&dir).await.map_err(refused)?.is_some_and(|status| status.is_current()) {
        if fs::read_to_string(&started_with).is_ok_and(|with| with == start_with) {
            return Ok(());
        }
        end(&dir).await?;
    }
    client::start(&shims.own_program("qvd-keeper")?, &dir, &spec).await.map_err(refused)?;
    fs::write(&started_with, start_with).map_err(|error| failed("write", &started_with, error))
}

fn command(file: &Path, name_servers: &[String]) -> Result<Vec<String>, HypervisorError> {
    let mut command = vec![program("dnsmasq", "dnsmasq-base")?.display().to_string()];
    command.extend(["--keep-in-foreground", "--log-facility=-", "--pid-file"].map(str::to_owned));
    command.push(format!("--conf-file={}", file.display()));
    let servers: Vec<IpAddr> = name_servers.iter().filter_map(|server| server.parse().ok()).collect();
    for (option, family) in [("option:dns-server", Family::V4), ("option6:dns-server", Family::V6)] {
        let of = servers.iter().filter(|server| Family::of(**server) == family).map(|server| match server {
            IpAddr::V4(server) => format!(",{server}"),
            IpAddr::V6(server) => format!(",[{server}]"),
        });
        let list: String = of.collect();
        if !list.is_empty() {
            command.push(format!("--dhcp-option={option}{list}"));
        }
    }
    Ok(command)
}

/// Starts it again whenever it ends, until dropped.
pub async fn guard(network: &Network, shims: &Shims, name_servers: &[String]) {
    let Some(file) = network.dhcp() else { return std::future::pending().await };
    let mut told = None;
    loop {
        let begin = Instant::now();
        let ended = exit(client::wait(&ShimDir::new(of(file))).await).map(|exit| exit.to_string());
        if !network.is_prepared().await {
            return std::future::pending().await;
        }
        let said = last_line(&fs::read_to_string(output(file)).unwrap_or_default());
        // Where it never runs, that is told once.
        if begin.elapsed() > PAUSE || told.as_ref() != Some(&said) {
            warn!(?ended, ?said, "the DHCP server ended; starting it again");
            told = Some(said);
        }
        if let Err(error) = start(network, shims, name_servers).await {
            warn!(%error, "the DHCP server cannot be started");
        }
        sleep(PAUSE).await;
    }
}

/// Ends it.
pub async fn stop(network: &Network) -> Result<(), HypervisorError> {
    match network.dhcp() {
        Some(file) => end(&ShimDir::new(of(file))).await,
        None => Ok(()),
    }
}

async fn end(dir: &ShimDir) -> Result<(), HypervisorError> {
    if client::kill(dir).await.map_err(refused)? {
        client::wait(dir).await;
    }
    Ok(())
}

fn of(file: &Path) -> &Path {
    file.parent().unwrap_or(file)
}

fn output(file: &Path) -> PathBuf {
    file.with_extension("log")
}

fn refused(error: client::ShimClientError) -> HypervisorError {
    not_started("the DHCP server", error)
}
