//! A real directory server of its own for each test, and servers that only pretend.

use std::{
    fmt::Write as _,
    fs,
    net::{Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Instant,
};

use qvd::demo::site::free_port;
use tempfile::TempDir;
use tokio::{io::AsyncReadExt, sync::watch, task::AbortHandle};

use super::stage::PATIENCE;

/// Of `alice`; every user's password is like this one's.
pub const SECRET: &str = "wonderland";
/// Of the whole directory.
pub const SUFFIX: &str = "dc=example,dc=org";
/// Where users are.
pub const PEOPLE: &str = "ou=people,dc=example,dc=org";
/// A login that means something in filters and in names.
pub const WEIRD: &str = r"st*r(1),x+y\z";

/// A slapd that ends with its value, or with the test's thread.
pub struct Slapd {
    directory: TempDir,
    child: Child,
    pub port: u16,
    pub tls_port: u16,
}

impl Slapd {
    /// With users `alice` and others.
    pub fn start() -> Self {
        Self::with("", 0)
    }

    /// With further entries (LDIF), and so many users named `user0`, `user1`, …
    pub fn with(ldif: &str, users: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (port, tls_port) = (free_port().unwrap(), free_port().unwrap());
        let at = directory.path();
        fs::create_dir(at.join("db")).unwrap();
        certify(at);
        fs::write(at.join("slapd.conf"), configuration(at)).unwrap();
        fs::write(at.join("seed.ldif"), seed(ldif, users)).unwrap();
        let conf = at.join("slapd.conf");
        let mut slapadd = Command::new("/usr/sbin/slapadd");
        slapadd.arg("-q").arg("-f").arg(&conf).arg("-l").arg(at.join("seed.ldif"));
        let filled = slapadd.output().unwrap();
        assert!(filled.status.success(), "{}", String::from_utf8_lossy(&filled.stderr));
        let urls = format!("ldap://127.0.0.1:{port}/ ldaps://127.0.0.1:{tls_port}/");
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "/usr/sbin/slapd", "-d", "none", "-h", &urls, "-f"])
            .arg(&conf)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let slapd = Self { directory, child, port, tls_port };
        let began = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, tls_port)).is_err() {
            assert!(began.elapsed() < PATIENCE, "slapd does not listen");
            std::thread::yield_now();
        }
        slapd
    }

    pub fn url(&self) -> String {
        format!("ldap://127.0.0.1:{}", self.port)
    }

    pub fn tls_url(&self) -> String {
        format!("ldaps://127.0.0.1:{}", self.tls_port)
    }

    /// The authority of its certificate.
    pub fn ca(&self) -> PathBuf {
        self.directory.path().join("cert.pem")
    }
}

impl Drop for Slapd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn certify(at: &Path) {
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    fs::write(at.join("cert.pem"), made.cert.pem()).unwrap();
    fs::write(at.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    // The router, which has no rights, reads the authority.
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(at, open).unwrap();
}

fn configuration(at: &Path) -> String {
    let at = at.display();
    format!(
        r#"include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
include /etc/ldap/schema/nis.schema
modulepath /usr/lib/ldap
moduleload back_mdb
pidfile {at}/slapd.pid
argsfile {at}/slapd.args
TLSCertificateFile {at}/cert.pem
TLSCertificateKeyFile {at}/key.pem
database mdb
maxsize 104857600
dbnosync
suffix "{SUFFIX}"
rootdn "cn=admin,{SUFFIX}"
rootpw adminpw
directory {at}/db
index objectClass,uid,cn eq
access to attrs=userPassword by self write by anonymous auth by * none
access to * by * read
"#
    )
}

fn seed(ldif: &str, users: usize) -> String {
    let mut seed = format!(
        "dn: {SUFFIX}\nobjectClass: dcObject\nobjectClass: organization\ndc: example\no: Example\n\n\
         dn: {PEOPLE}\nobjectClass: organizationalUnit\nou: people\n\n"
    );
    let person = |dn: &str, uid: &str, cn: &str, number: usize| {
        format!(
            "dn: uid={dn},{PEOPLE}\nobjectClass: inetOrgPerson\nobjectClass: posixAccount\nuid: {uid}\ncn: {cn}\nsn: x\n\
             uidNumber: {number}\ngidNumber: {}\nhomeDirectory: /home/{number}\nuserPassword: {SECRET}\n\n",
            number + 1
        )
    };
    seed += &person("alice", "alice", "Alice Liddell", 2000);
    seed += &person("bob", "bob", "twin", 2010);
    seed += &person("carol", "carol", "twin", 2020);
    seed += &person(r"st*r(1)\2cx\2by\5cz", WEIRD, "weird", 2030);
    for number in 0..users {
        let name = format!("user{number}");
        let _ = write!(seed, "{}", person(&name, &name, &name, 3000 + number));
    }
    seed + ldif
}

/// Stands before a server and counts who is inside. Shut, it lets people in and nothing through.
pub struct Door {
    pub port: u16,
    most: Arc<AtomicUsize>,
    open: watch::Sender<bool>,
    keeper: AbortHandle,
}

impl Door {
    pub async fn before(server: u16) -> Self {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (most, inside) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let open = watch::Sender::new(true);
        let (seen, opened) = (most.clone(), open.subscribe());
        let keeper = tokio::spawn(async move {
            let mut served = tokio::task::JoinSet::new();
            while let Ok((mut client, _)) = listener.accept().await {
                seen.fetch_max(inside.fetch_add(1, SeqCst) + 1, SeqCst);
                let (inside, mut opened) = (inside.clone(), opened.clone());
                served.spawn(async move {
                    let through = async {
                        opened.wait_for(|open| *open).await.unwrap();
                        let mut server = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, server)).await.unwrap();
                        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                    };
                    through.await;
                    inside.fetch_sub(1, SeqCst);
                });
            }
        });
        Self { port, most, open, keeper: keeper.abort_handle() }
    }

    /// How many were inside at the same time.
    pub fn most(&self) -> usize {
        self.most.load(SeqCst)
    }

    pub fn shut(&self) {
        self.open.send_replace(false);
    }

    pub fn open(&self) {
        self.open.send_replace(true);
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

/// Accepts, and never answers.
pub async fn silent() -> u16 {
    pretender(|client| async move {
        let _held = client;
        std::future::pending().await
    })
    .await
}

/// Reads what is asked first and hangs up, with the beginning of an answer on its lips.
pub async fn dying() -> u16 {
    pretender(|mut client: tokio::net::TcpStream| async move {
        let mut request = [0; 512];
        let _ = client.read(&mut request).await;
        let _ = tokio::io::AsyncWriteExt::write_all(&mut client, &[0x30, 0x0c, 0x02, 0x01]).await;
    })
    .await
}

/// Answers, but not in LDAP.
pub async fn babbling() -> u16 {
    pretender(|mut client: tokio::net::TcpStream| async move {
        let _ = tokio::io::AsyncWriteExt::write_all(&mut client, b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        let mut rest = [0; 512];
        while matches!(client.read(&mut rest).await, Ok(read) if read > 0) {}
    })
    .await
}

/// Nobody listens.
pub fn closed() -> u16 {
    free_port().unwrap()
}

async fn pretender<F: Future<Output = ()> + Send + 'static>(
    serve: impl Fn(tokio::net::TcpStream) -> F + Send + 'static,
) -> u16 {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut served = tokio::task::JoinSet::new();
        while let Ok((client, _)) = listener.accept().await {
            served.spawn(serve(client));
        }
    });
    port
}
