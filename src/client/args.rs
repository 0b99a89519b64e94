//! The arguments of `qvd client`.

use std::path::PathBuf;

use clap::Args;

const AFTER_HELP: &str = "\
Exit status:
  0  the session ended normally
  1  wrong arguments or configuration
  2  the server cannot be reached or understood
  3  the certificate of the server was refused
  4  the login was rejected
  5  the desktop is not available
  6  nxproxy is missing or failed
  7  the connection was lost

Settings come from arguments, then QVDHOST, QVDPORT, QVDLOGIN, QVDPASSWORD, QVDBEARERTOKEN and QVDSSLERRORS, then \
~/.qvd/client.conf (or the file named by QVDCLIENTCONFIG), then /etc/qvd/client.conf.";

/// Connect to a desktop
#[derive(Args, Clone, Debug, Default)]
#[command(after_help = AFTER_HELP)]
pub struct ClientArgs {
    /// Server to connect to
    #[arg(long, value_name = "NAME")]
    pub host: Option<String>,

    /// Its port [default: 8443]
    #[arg(long)]
    pub port: Option<u16>,

    /// Login, with the tenant behind an @ where needed
    #[arg(long, visible_alias = "username", value_name = "LOGIN")]
    pub user: Option<String>,

    /// Password; other users of this machine may see it, QVDPASSWORD or the prompt are better
    #[arg(long, hide_env_values = true)]
    pub password: Option<String>,

    /// Token to log in with instead of login and password
    #[arg(long, conflicts_with_all = ["user", "password"])]
    pub token: Option<String>,

    /// Desktop to connect to, when there are several
    #[arg(long, visible_alias = "vm-id", value_name = "NAME|ID")]
    pub vm: Option<String>,

    /// Show the desktops instead of connecting
    #[arg(long, visible_alias = "list-vms")]
    pub list: bool,

    /// Show them as JSON
    #[arg(long, requires = "list")]
    pub json: bool,

    /// Speak in the clear; the password can then be read on the way
    #[arg(long, conflicts_with_all = ["ssl_errors", "ca"])]
    pub no_ssl: bool,

    /// How to reach the server: tls, quic (survives a change of network), or auto, which takes what answers first
    /// [default: auto]
    #[arg(long, value_name = "WAY")]
    pub transport: Option<String>,

    /// What to do with a certificate that cannot be verified: ask, continue or abort [default: ask]
    #[arg(long, value_name = "WHAT")]
    pub ssl_errors: Option<String>,

    /// Certificates (PEM) to trust besides those of the system and of ~/.qvd/certs
    #[arg(long, value_name = "FILE")]
    pub ca: Vec<PathBuf>,

    /// Size of the desktop, such as 1280x800 [default: 1024x768]
    #[arg(long, value_name = "WxH")]
    pub geometry: Option<String>,

    /// Kind of network: modem, isdn, adsl, wan, lan, local, or a bandwidth such as 512k [default: adsl]
    #[arg(long)]
    pub link: Option<String>,

    /// Keyboard as model/layout [default: pc105/us]
    #[arg(long, value_name = "MODEL/LAYOUT")]
    pub keyboard: Option<String>,

    /// Use the whole screen
    #[arg(long)]
    pub fullscreen: bool,

    /// Stop the desktop first, so that it starts anew
    #[arg(long)]
    pub restart_session: bool,

    /// Configuration file to read instead of ~/.qvd/client.conf
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}
