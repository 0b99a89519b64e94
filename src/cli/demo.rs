//! `qvd demo`: everything on one machine, from nothing to a desktop on the screen.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use clap::Args;
use nix::{sys::signal::Signal, unistd::Uid};
use tokio_util::sync::CancellationToken;

use crate::demo::{
    attached::{Account, Attached, attached_command},
    display::{Display, shows_desktop},
    image,
    postgres::Durability,
    site::{Site, SiteOptions},
};

use super::daemons::until_told_to_end;

/// The demo's user. The password protects nothing: the router of the demo is for this machine.
const LOGIN: &str = "alice";
const PASSWORD: &str = "wonderland";
const VM: &str = "desktop";
const MEMORY_AND_HOME_MB: (i32, i32) = (1024, 1024);
const SIZE: (u32, u32) = (1280, 800);
const DRAWN_WITHIN: Duration = Duration::from_secs(60);

#[derive(Args)]
pub struct Demo {
    /// End by itself once the screenshot is taken
    #[arg(long)]
    once: bool,
    /// Forget everything that earlier runs have kept, and end
    #[arg(long)]
    reset: bool,
    /// Where the demo keeps database, images and homes
    #[arg(long, default_value = "/var/lib/qvd-demo", value_name = "DIRECTORY")]
    directory: PathBuf,
    /// Port of the router
    #[arg(long, default_value_t = 8443)]
    port: u16,
    /// Where the screenshot goes
    #[arg(long, default_value = "qvd-demo.png", value_name = "FILE")]
    screenshot: PathBuf,
}

/// Runs the demo until Ctrl-C, or to its screenshot.
pub async fn run(arguments: Demo) -> anyhow::Result<()> {
    if !Uid::effective().is_root() {
        bail!("the demo runs containers, which takes root; use sudo");
    }
    if arguments.reset {
        return reset(&arguments.directory);
    }
    let stop = until_told_to_end()?;
    let began = Instant::now();
    step(began, "desktop image");
    let recipe = image::Recipe::default();
    let desktop = tokio::select! {
        desktop = super::image::build(&recipe) => desktop?,
        () = stop.cancelled() => return Ok(()),
    };
    step(began, "database");
    let site = Site::open(SiteOptions {
        directory: arguments.directory.clone(),
        program: std::env::current_exe().context("this program cannot find itself")?,
        node: "demo".to_owned(),
        network: (99, 84),
        hypervisor: "lxc",
        durability: Durability::Durable,
        port: Some(arguments.port),
        settings: vec![],
    })
    .await?;
    let outcome = tokio::select! {
        outcome = show(&arguments, &site, &desktop, began, &stop) => outcome,
        () = stop.cancelled() => Ok(()),
    };
    step(began, "ending: stopping the desktop, the node and the database");
    let closed = site.close().await;
    outcome?;
    closed?;
    println!(
        "Nothing is left running. State is kept in {}; `qvd demo --reset` forgets it.",
        arguments.directory.display()
    );
    Ok(())
}

async fn show(
    arguments: &Demo,
    site: &Site,
    desktop: &Path,
    began: Instant,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    furnish(site, desktop).await?;
    step(began, "node");
    site.start_node().await?;
    let screen = match std::env::var("DISPLAY").ok().filter(|display| !display.is_empty() && !arguments.once) {
        Some(display) => Screen::User(display),
        None => Screen::Virtual(Display::start(SIZE.0, SIZE.1).await?),
    };
    step(began, "connecting with the client");
    let client = start_client(site, &screen)?;
    if let Screen::Virtual(display) = &screen {
        let drawn = tokio::select! {
            drawn = display.wait_for(DRAWN_WITHIN, shows_desktop) => drawn,
            status = client.exited() => bail!(
                "the client ended ({}); see {}", describe(status), client_log(site).display()
            ),
        };
        let picture = drawn.with_context(|| {
            format!("no desktop was drawn; see {} and {}", client_log(site).display(), site.log().display())
        })?;
        picture.save_png(&arguments.screenshot)?;
        let path = arguments.screenshot.canonicalize().unwrap_or_else(|_| arguments.screenshot.clone());
        step(began, &format!("the desktop is drawn; screenshot: {}", path.display()));
    }
    print_page(site, &screen);
    if arguments.once {
        return Ok(());
    }
    tokio::select! {
        status = client.exited() => {
            println!("The client has ended ({}). The desktop goes on; Ctrl-C ends the demo.", describe(status));
            stop.cancelled().await;
        }
        () = stop.cancelled() => {}
    }
    Ok(())
}

enum Screen {
    User(String),
    Virtual(Display),
}

/// One user with one desktop, made of the image; what is there already is kept.
async fn furnish(site: &Site, desktop: &Path) -> anyhow::Result<()> {
    let file = desktop.file_name().and_then(|name| name.to_str()).context("the image has no name")?;
    site.add_image(desktop, file)?;
    site.connector("postgres")?.settle_desktop((LOGIN, PASSWORD), VM, file, MEMORY_AND_HOME_MB).await?;
    Ok(())
}

fn start_client(site: &Site, screen: &Screen) -> anyhow::Result<Attached> {
    let display = match screen {
        Screen::User(display) => display.clone(),
        Screen::Virtual(display) => display.name(),
    };
    let log = std::fs::File::create(client_log(site))?;
    let mut command = attached_command(std::env::current_exe()?, &Account::own()?, Signal::SIGTERM);
    command.args(["client", "--host", "localhost", "--user", LOGIN, "--vm", VM, "--link", "lan", "--fullscreen"]);
    command.args(["--port", &site.port().to_string(), "--geometry", &format!("{}x{}", SIZE.0, SIZE.1)]);
    command.arg("--ca").arg(site.certificate());
    command.env("QVDPASSWORD", PASSWORD).env("DISPLAY", display).env("HOME", site.run_directory());
    if let Some(authority) = std::env::var_os("XAUTHORITY") {
        command.env("XAUTHORITY", authority);
    }
    command.stdin(std::process::Stdio::null()).stdout(log.try_clone()?).stderr(log);
    Ok(Attached::start(command, Signal::SIGTERM)?)
}

fn client_log(site: &Site) -> PathBuf {
    site.run_directory().join("client.log")
}

fn print_page(site: &Site, screen: &Screen) {
    let socket = site.cluster().socket_dir().display();
    let screen = match screen {
        Screen::User(display) => format!("on your display {display}"),
        Screen::Virtual(_) => "on a virtual screen, since there is no display here".to_owned(),
    };
    println!(
        "
  A desktop of user {LOGIN} runs, {screen}.

  Connect to it from here or another machine:
    qvd client --host <this machine> --port {port} --user {LOGIN}        (password: {PASSWORD})

  Administer it by SQL:
    psql -h {socket} -U postgres qvd
      select * from vm_list;
      select * from session_list;
      select vm_disconnect('{LOGIN}/{VM}');
      select vm_stop('{LOGIN}/{VM}');
      select vm_start('{LOGIN}/{VM}');
      select user_create('bob', 'secret'), vm_create('bob', 'desk', 'desktop');

  Watch what happens:
    qvd admin watch --database 'host={socket} user=postgres dbname=qvd'

  Logs: {log}
  Ctrl-C ends the demo.
",
        port = site.port(),
        log = site.log().display(),
    );
}

fn reset(directory: &Path) -> anyhow::Result<()> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        result => result.with_context(|| format!("{} cannot be removed", directory.display()))?,
    }
    println!("{} is forgotten; the cached image stays in {}", directory.display(), image::CACHE);
    Ok(())
}

fn step(began: Instant, what: &str) {
    println!("{:>6.1} s  {what}", began.elapsed().as_secs_f64());
}

fn describe(status: Option<std::process::ExitStatus>) -> String {
    status.map_or_else(|| "nobody saw how".to_owned(), |status| status.to_string())
}
