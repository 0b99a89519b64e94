//! The installations that these tests share. On the calm one limits are as in production and nobody is disturbed; on
//! the rough one they are short, and who breaks something has it alone.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use qvd::demo::{
    postgres::Durability,
    site::{Site, SiteOptions},
};
use tokio::sync::{Mutex, MutexGuard, OnceCell, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::{client::Client, vm::FakeVm};

/// For whatever comes about by itself when nothing is wrong.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Everybody's.
pub const PASSWORD: &str = "open:sesame ü";

static CALM: OnceCell<Stage> = OnceCell::const_new();
static PLAIN: OnceCell<Stage> = OnceCell::const_new();
static ROUGH: OnceCell<Stage> = OnceCell::const_new();
static TURN: RwLock<()> = RwLock::const_new(());
static BESIEGED: OnceCell<Stage> = OnceCell::const_new();
static SIEGE: Mutex<()> = Mutex::const_new(());

/// The calm installation.
pub async fn calm() -> &'static Stage {
    CALM.get_or_init(|| Stage::open(1, &[("internal.hkd.nothing.timeout.on_state.starting", "0.05")])).await
}

/// The installation behind something that terminates TLS: its router speaks in the clear.
pub async fn plain() -> &'static Stage {
    let settings = [("internal.hkd.nothing.timeout.on_state.starting", "0.05"), ("l7r.use_ssl", "0")];
    PLAIN.get_or_init(|| Stage::open(3, &settings)).await
}

/// The installation with short limits, shared with others.
pub async fn rough() -> (&'static Stage, RwLockReadGuard<'static, ()>) {
    let turn = TURN.read().await;
    (open_rough().await, turn)
}

/// The installation with short limits, alone.
pub async fn rough_alone() -> (&'static Stage, RwLockWriteGuard<'static, ()>) {
    let turn = TURN.write().await;
    (open_rough().await, turn)
}

/// How long a handshake may take on the besieged installation.
pub const SIEGE_HANDSHAKE: Duration = Duration::from_secs(10);

/// The installation that is attacked, alone: what its router holds is due to the one who attacks. Strangers have little
/// time there, and their number is limited by address only.
pub async fn besieged() -> (&'static Stage, MutexGuard<'static, ()>) {
    let turn = SIEGE.lock().await;
    let handshake = SIEGE_HANDSHAKE.as_secs().to_string();
    let settings = [
        ("internal.hkd.nothing.timeout.on_state.starting", "0.05"),
        ("internal.l7r.timeout.handshake", handshake.as_str()),
        ("internal.l7r.timeout.head", "3"),
        ("internal.l7r.limit.strangers", "0"),
    ];
    (BESIEGED.get_or_init(|| Stage::open(4, &settings)).await, turn)
}

async fn open_rough() -> &'static Stage {
    let settings = [
        ("internal.hkd.nothing.timeout.on_state.starting", "1"),
        ("internal.hkd.poll.relaxed", "2"),
        ("internal.l7r.timeout.vma", "0.3"),
        ("internal.l7r.timeout.x_start", "0.7"),
        ("internal.l7r.retry.x_start", "1"),
        ("internal.l7r.timeout.takeover", "1.2"),
        ("internal.l7r.timeout.vm_start", "3"),
        ("internal.l7r.timeout.vm_stop", "1"),
        ("internal.l7r.poll_time.vm", "0.3"),
    ];
    ROUGH.get_or_init(|| Stage::open(2, &settings)).await
}

/// An installation.
pub struct Stage {
    pub site: Site,
    number: u8,
    hash: String,
    next: AtomicU16,
    _broom: Child,
}

impl Stage {
    async fn open(number: u8, settings: &[(&str, &str)]) -> Self {
        let directory = PathBuf::from(format!("/tmp/qw{}-{number}", std::process::id()));
        let broom = broom(&directory).unwrap();
        let mut all = vec![("internal.hkd.nothing.timeout.on_state.stopping", "0.02")];
        all.extend(settings);
        let site = Site::open(SiteOptions {
            directory,
            program: env!("CARGO_BIN_EXE_qvd").into(),
            node: format!("tw{number}"),
            network: (213, number),
            hypervisor: "nothing",
            durability: Durability::Volatile,
            port: None,
            settings: all.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        })
        .await
        .unwrap();
        site.sql("select osf_create('desk'), di_create('desk', 'desk.tar')").await.unwrap();
        site.start_node().await.unwrap();
        let hash = qvd::auth::hash(PASSWORD).unwrap();
        Self { site, number, hash, next: AtomicU16::new(1), _broom: broom }
    }

    /// A new client.
    pub async fn client(&self) -> Client {
        Client::connect(self.site.port()).await
    }

    /// Runs SQL as the owner of the schema.
    pub async fn sql(&self, statements: &str) -> String {
        self.site.sql(statements).await.unwrap().unwrap_or_default()
    }

    /// Waits until a query gives this.
    pub async fn until(&self, query: &str, wanted: &str) {
        self.site.wait_for(query, query, wanted).await.unwrap();
    }

    /// A new tenant.
    pub async fn tenant(&self) -> String {
        let name = format!("tenant{}", self.next.fetch_add(1, Ordering::Relaxed));
        self.sql(&format!("select tenant_create('{name}')")).await;
        name
    }

    /// A new user of the default tenant.
    pub async fn user(&self) -> User {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let login = format!("user{number}");
        let hash = &self.hash;
        let id = self
            .sql(&format!(
                "insert into users (tenant_id, login, password) values (1, '{login}', '{hash}') returning id"
            ))
            .await;
        User { login, id: id.parse().unwrap(), number }
    }

    /// A new user of a new tenant with a VM that runs, and settings of that tenant.
    pub async fn running_in_tenant(&'static self, settings: &[(&str, &str)]) -> Desktop {
        let desktop = self.in_tenant(settings).await;
        desktop.start().await;
        desktop
    }

    /// Likewise, but the VM is stopped.
    pub async fn in_tenant(&'static self, settings: &[(&str, &str)]) -> Desktop {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (tenant, login, hash) = (format!("tenant{number}"), format!("user{number}"), &self.hash);
        self.sql(&format!("select tenant_create('{tenant}')")).await;
        for (key, value) in settings {
            self.sql(&format!("select config_set('{key}', '{value}', '{tenant}')")).await;
        }
        let id = self
            .sql(&format!(
                "select osf_create('desk@{tenant}'), di_create('desk@{tenant}', 'desk{number}.tar');
                 insert into users (tenant_id, login, password) values (tenant_id('{tenant}'), '{login}', '{hash}')
                 returning id"
            ))
            .await;
        let user = User { login: format!("{login}@{tenant}"), id: id.parse().unwrap(), number };
        self.desktop_of(&user, &format!("desk@{tenant}")).await
    }

    /// A new user with a VM that is stopped.
    pub async fn desktop(&'static self) -> Desktop {
        let user = self.user().await;
        self.desktop_of(&user, "desk").await
    }

    /// A new user with a VM that runs.
    pub async fn running(&'static self) -> Desktop {
        let desktop = self.desktop().await;
        desktop.start().await;
        desktop
    }

    async fn desktop_of(&'static self, user: &User, osf: &str) -> Desktop {
        let [high, low] = user.number.to_be_bytes();
        let address = Ipv4Addr::new(127, 90 + self.number, high, low);
        let vm = FakeVm::start(address).await;
        let login = &user.login;
        let id = self.sql(&format!("select vm_create('{login}', 'desk', '{osf}', ip => '{address}')")).await;
        Desktop { stage: self, login: login.clone(), id: id.parse().unwrap(), vm }
    }

    /// A VM of a user who is there already.
    pub async fn lent(&'static self, login: &str, name: &str, osf: &str) -> Desktop {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let [high, low] = number.to_be_bytes();
        let address = Ipv4Addr::new(127, 90 + self.number, high, low);
        let vm = FakeVm::start(address).await;
        let id = self.sql(&format!("select vm_create('{login}', '{name}', '{osf}', ip => '{address}')")).await;
        Desktop { stage: self, login: login.to_owned(), id: id.parse().unwrap(), vm }
    }

    /// A new user whose VM is reached by IPv6. The machine has only one address of that kind for itself.
    pub async fn desktop_of_ipv6(&'static self) -> Desktop {
        let User { login, .. } = self.user().await;
        let vm = FakeVm::start(Ipv6Addr::LOCALHOST).await;
        let id = self.sql(&format!("select vm_create('{login}', 'desk', 'desk', ip => '::1')")).await;
        Desktop { stage: self, login, id: id.parse().unwrap(), vm }
    }

    /// A new user whose VM has no disk image.
    pub async fn desktop_without_image(&'static self) -> Desktop {
        let user = self.user().await;
        let osf = format!("empty{}", user.number);
        self.sql(&format!("select osf_create('{osf}')")).await;
        self.desktop_of(&user, &osf).await
    }

    /// The process of the router.
    pub async fn l7r_pid(&self) -> i32 {
        self.sql("select pid from l7r_instances where ended_at is null").await.parse().unwrap()
    }
}

/// A user.
pub struct User {
    pub login: String,
    pub id: i32,
    number: u16,
}

impl User {
    /// The header that proves it.
    pub fn authorization(&self) -> String {
        authorization(&self.login, PASSWORD)
    }
}

/// The header for a login and a password.
pub fn authorization(login: &str, password: &str) -> String {
    format!("Authorization: Basic {}\r\n", BASE64_STANDARD.encode(format!("{login}:{password}")))
}

/// A user's VM.
pub struct Desktop {
    pub stage: &'static Stage,
    pub login: String,
    pub id: i32,
    pub vm: FakeVm,
}

impl Desktop {
    pub fn name(&self) -> String {
        format!("{}/desk", self.login)
    }

    pub fn authorization(&self) -> String {
        authorization(&self.login, PASSWORD)
    }

    /// A request without a body, as classic clients write it.
    pub fn get(&self, target: &str) -> String {
        format!("GET {target} HTTP/1.1\r\n{}\r\n", self.authorization())
    }

    /// The request for the tunnel, with further parameters (`&a=b`).
    pub fn connect_request(&self, parameters: &str) -> String {
        format!(
            "GET /qvd/connect_to_vm?id={}{parameters} HTTP/1.1\r\n{}Connection: Upgrade\r\nUpgrade: QVD/1.0\r\n\r\n",
            self.id,
            self.authorization()
        )
    }

    pub async fn start(&self) {
        self.stage.sql(&format!("select vm_start({})", self.id)).await;
        self.stage.site.wait_vm(&self.name(), "running").await.unwrap();
    }

    /// A client that has asked for the tunnel and read nothing yet.
    pub async fn ask(&self) -> Client {
        let mut client = self.stage.client().await;
        client.send(self.connect_request("")).await;
        client
    }

    /// A tunnel, with the id of its session.
    pub async fn connected(&mut self) -> Tunnel {
        let client = self.ask().await;
        self.answered(client).await
    }

    /// The same over a connection that is there already.
    pub async fn connected_over(&mut self, tcp: tokio::net::TcpStream) -> Tunnel {
        let mut client = Client::over(tcp, &rustls::version::TLS13).await;
        client.send(self.connect_request("")).await;
        self.answered(client).await
    }

    async fn answered(&mut self, mut client: Client) -> Tunnel {
        let (_, answer) = client.conclusion().await;
        assert_eq!(answer.status, 101, "{}", answer.text());
        let nx = self.vm.nx().await;
        Tunnel { client, nx, session: answer.header("X-QVD-Session-Id").unwrap().parse().unwrap() }
    }

    pub async fn user_state(&self) -> String {
        self.stage.sql(&format!("select user_state from vm_runtimes where vm_id = {}", self.id)).await
    }

    /// Waits until nobody has it, and says how long that took.
    pub async fn freed(&self) -> Duration {
        let began = Instant::now();
        let query = format!("select user_state from vm_runtimes where vm_id = {}", self.id);
        self.stage.until(&query, "disconnected").await;
        began.elapsed()
    }

    /// Why the newest session ended; empty while it lasts.
    pub async fn end_reason(&self) -> String {
        self.stage
            .sql(&format!("select end_reason from user_sessions where vm_id = {} order by id desc limit 1", self.id))
            .await
    }

    /// All that the database keeps about the use of this VM.
    pub async fn record(&self) -> String {
        let id = self.id;
        self.stage
            .sql(&format!(
                "select jsonb_build_array((select to_jsonb(r) from vm_runtimes r where vm_id = {id}),
                     (select count(*) from user_sessions where vm_id = {id}),
                     (select count(*) from user_tokens where vm_id = {id}),
                     (select to_jsonb(c) from vm_counters c where vm_id = {id}))"
            ))
            .await
    }
}

/// Both ends of a tunnel.
pub struct Tunnel {
    pub client: Client,
    pub nx: tokio::net::TcpStream,
    pub session: i64,
}

/// Statics are never dropped: what an installation leaves in the file system is swept away by a process that waits
/// for the end of this one, however it ends, and for that of the database.
fn broom(directory: &std::path::Path) -> io::Result<Child> {
    const SWEEP: &str = r#"
        cat >/dev/null
        flock --timeout 20 "$0/run/hkd.lock" true
        read -r postmaster <"$0/database/postmaster.pid" && timeout 20 tail --pid="$postmaster" -f /dev/null
        rm -rf "$0""#;
    Command::new("setsid")
        .args(["sh", "-c", SWEEP])
        .arg(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
}
