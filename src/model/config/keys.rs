//! Every configuration key that this version acts upon. Names, defaults and meanings are those of classic QVD unless
//! the text says otherwise.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use super::{ConfigValue, CongestionControl, Key, KeyInfo, NetworkMode, UnionKind};
use crate::model::networks::Networks;

macro_rules! keys {
    ($($(#[doc = $meaning:literal])+ $name:ident: $type:ty = $key:literal, $default:literal;)+) => {
        $(
            $(#[doc = $meaning])+
            pub const $name: Key<$type> = Key {
                name: $key,
                default: $default,
                meaning: concat!($($meaning),+),
                parse: <$type as ConfigValue>::parse,
            };
        )+

        /// Every key, in the order in which `qvd config list` shows them.
        pub const KEYS: &[KeyInfo] = &[
            $(KeyInfo {
                name: $key,
                default: $default,
                unit: <$type as ConfigValue>::UNIT,
                meaning: concat!($($meaning),+),
                check: |text| <$type as ConfigValue>::parse(text).map(drop),
            },)+
        ];
    };
}

/// What daemons read only when they start: who they are, where things are, what they listen on, the VM network. Changes of
/// all other keys are followed while they run.
pub const READ_AT_START: &[&str] = &[
    "nodename",
    "database.host",
    "database.port",
    "database.name",
    "database.user",
    "database.password",
    "database.l7r.user",
    "database.l7r.password",
    "database.wat.user",
    "database.wat.password",
    "path.api.ssl",
    "path.api.ssl.cert",
    "path.api.ssl.key",
    "api.url",
    "wat.download.private",
    "wat.download.limit",
    "wat.novnc.dir",
    "database.sslmode",
    "internal.database.client.connect.timeout",
    "internal.database.statement.timeout",
    "internal.database.pool.size",
    "path.run",
    "path.log",
    "path.storage.root",
    "path.storage.images",
    "path.storage.basefs",
    "path.storage.overlayfs",
    "path.storage.homefs",
    "path.storage.hosts",
    "path.storage.overlays",
    "path.storage.homes",
    "path.serial.captures",
    "path.l7r.ssl",
    "path.l7r.ssl.cert",
    "path.l7r.ssl.key",
    "path.qvd.bin",
    "l7r.port",
    "l7r.address",
    "l7r.use_ssl",
    "l7r.as_user",
    "l7r.quic",
    "l7r.quic.congestion",
    "l7r.node.port",
    "internal.l7r.timeout.handshake",
    "internal.l7r.ktls",
    "internal.l7r.hash.limit",
    "internal.l7r.quic.timeout.idle",
    "internal.hkd.lease.lapse",
    "fence.margin",
    "fence.reboot",
    "storage.local",
    "hkd.process.limit.as",
    "hkd.process.limit.hard.as",
    "hkd.process.limit.core",
    "hkd.process.limit.hard.core",
    "hkd.process.limit.data",
    "hkd.process.limit.hard.data",
    "hkd.process.limit.fsize",
    "hkd.process.limit.hard.fsize",
    "hkd.process.limit.memlock",
    "hkd.process.limit.hard.memlock",
    "hkd.process.limit.nice",
    "hkd.process.limit.hard.nice",
    "hkd.process.limit.nofile",
    "hkd.process.limit.hard.nofile",
    "hkd.process.limit.stack",
    "hkd.process.limit.hard.stack",
    "internal.hkd.lock.path",
    "internal.hkd.hypervisor_list",
    "internal.hkd.nothing.timeout.on_state.starting",
    "internal.hkd.nothing.timeout.on_state.stopping",
    "vm.hypervisor",
    "vm.overlay.persistent",
    "vm.lxc.ids",
    "vm.lxc.no_new_privs",
    "vm.lxc.hooks.allow",
    "internal.vm.lxc.conf.extra",
    "vm.lxc.unionfs.type",
    "vm.lxc.overlay.size",
    "vm.lxc.home.limit",
    "vm.lxc.home.per.user",
    "vm.kvm.home.per.user",
    "vm.kvm.ids",
    "vm.kvm.cpus",
    "vm.kvm.acceleration",
    "vm.kvm.ballooning",
    "vm.serial.capture",
    "vm.vnc.redirect",
    "vm.vnc.opts",
    "vm.network.mode",
    "vm.network.bridge",
    "vm.network.ip.start",
    "vm.network.netmask",
    "vm.network.gateway",
    "vm.network.ip6.prefix",
    "vm.network.ip6.gateway",
    "vm.network.use_dhcp",
    "vm.network.domain",
    "vm.network.dns",
    "vm.network.mac.prefix",
    "vm.network.firewall.nat.iface",
    "internal.vm.network.firewall.enable",
    "internal.vm.network.firewall.allow_login_from_vm",
    "internal.vm.network.device.prefix",
    "internal.vm.port.vma",
    "internal.nxagent.display",
];

keys! {
    /// Name of this node, as in table hosts. Only in the file.
    NODENAME: String = "nodename", "";

    /// Database servers: host, host:port or directory of a unix socket, several separated by commas; the writable one
    /// is used, and looked for again when it is gone. Only in the file.
    DATABASE_HOST: Vec<String> = "database.host", "localhost";
    /// Port of the database servers that name none. Only in the file.
    DATABASE_PORT: u16 = "database.port", "5432";
    /// Name of the database. Only in the file.
    DATABASE_NAME: String = "database.name", "qvd";
    /// Role that hkd logs in as; empty for qvd_node. Only in the file.
    DATABASE_USER: String = "database.user", "";
    /// Password of the role of hkd; empty where the server trusts the socket's peer. Only in the file.
    DATABASE_PASSWORD: String = "database.password", "";
    /// Role that l7r logs in as; empty for qvd_l7r. Only in the file.
    DATABASE_L7R_USER: String = "database.l7r.user", "";
    /// Password of the role of l7r. Only in the file.
    DATABASE_L7R_PASSWORD: String = "database.l7r.password", "";
    /// Role that the web tool logs in as; empty for qvd_wat. Only in the file.
    DATABASE_WAT_USER: String = "database.wat.user", "";
    /// Password of the role of the web tool. Only in the file.
    DATABASE_WAT_PASSWORD: String = "database.wat.password", "";
    /// TLS to the database: disable, prefer (where the server has it; nothing is verified), verify-ca (its certificate is
    /// verified, its name is not), verify-full or require (both are). Only in the file.
    DATABASE_SSLMODE: String = "database.sslmode", "prefer";
    /// File with the authorities of the database's certificate; empty for those of the system. Only in the file.
    DATABASE_SSLROOTCERT: String = "database.sslrootcert", "";
    /// Limit for making a connection to one database server. Where there are several, the next is asked meanwhile.
    DATABASE_CONNECT_TIMEOUT: Duration = "internal.database.client.connect.timeout", "20";
    /// How long a database server may leave unconfirmed what it was sent, or that it is there, before its connection is
    /// given up. Classic QVD has three keys for this (keepidle, keepintvl, keepcnt).
    DATABASE_SILENCE: Duration = "internal.database.client.socket.silence", "6";
    /// Limit for one statement; what takes longer is cancelled by the server.
    DATABASE_STATEMENT_TIMEOUT: Duration = "internal.database.statement.timeout", "30";
    /// Limit for waiting for a lock that somebody else holds in the database.
    DATABASE_LOCK_TIMEOUT: Duration = "internal.database.lock.timeout", "10";
    /// Limit for a transaction in which nothing is said; the server ends its connection.
    DATABASE_IDLE_TIMEOUT: Duration = "internal.database.transaction.idle.timeout", "60";
    /// Connections kept by each daemon, besides the one that listens.
    DATABASE_POOL_SIZE: u32 = "internal.database.pool.size", "4";

    /// Directory for sockets, locks and the state of running VMs.
    PATH_RUN: PathBuf = "path.run", "/run/qvd";
    /// What daemons log: error, warn, info, debug or trace, also for parts (info,qvd::hkd=debug). The environment variable QVD_LOG
    /// wins.
    LOG_LEVEL: String = "log.level", "info";
    /// Directory for logs.
    PATH_LOG: PathBuf = "path.log", "/var/log/qvd";
    /// Root of the shared storage.
    PATH_STORAGE_ROOT: PathBuf = "path.storage.root", "/var/lib/qvd/storage";
    /// Where administrators put files that shall become disk images.
    PATH_STORAGE_STAGING: PathBuf = "path.storage.staging", "${path.storage.root}/staging";
    /// Disk images.
    PATH_STORAGE_IMAGES: PathBuf = "path.storage.images", "${path.storage.root}/images";
    /// Unpacked images.
    PATH_STORAGE_BASEFS: PathBuf = "path.storage.basefs", "${path.storage.root}/basefs";
    /// Writable layers of running VMs.
    PATH_STORAGE_OVERLAYFS: PathBuf = "path.storage.overlayfs", "${path.storage.root}/overlayfs";
    /// Homes of VMs.
    PATH_STORAGE_HOMEFS: PathBuf = "path.storage.homefs", "${path.storage.root}/homefs";
    /// Writable layers of running KVM guests.
    PATH_STORAGE_OVERLAYS: PathBuf = "path.storage.overlays", "${path.storage.root}/overlays";
    /// Disks with the homes of KVM guests.
    PATH_STORAGE_HOMES: PathBuf = "path.storage.homes", "${path.storage.root}/homes";
    /// Life signs of the nodes that share the storage.
    PATH_STORAGE_HOSTS: PathBuf = "path.storage.hosts", "${path.storage.root}/hosts";
    /// What KVM guests write to their first serial port, kept when they have stopped.
    PATH_SERIAL_CAPTURES: PathBuf = "path.serial.captures", "${path.log}/serial";
    /// Where the router keeps the certificate that it makes for itself, so that clients meet the same one after a
    /// reboot.
    PATH_L7R_SSL: PathBuf = "path.l7r.ssl", "/var/lib/qvd/l7r/ssl";
    /// Certificate chain that l7r shows unless the database holds one. Files are read when l7r starts; one is made
    /// when this and the next key are not set and neither file exists.
    PATH_L7R_SSL_CERT: PathBuf = "path.l7r.ssl.cert", "${path.l7r.ssl}/cert.pem";
    /// Private key of that certificate.
    PATH_L7R_SSL_KEY: PathBuf = "path.l7r.ssl.key", "${path.l7r.ssl}/key.pem";
    /// Authorities of client certificates, unless the database holds some.
    PATH_L7R_SSL_CA: PathBuf = "path.l7r.ssl.ca", "${path.l7r.ssl}/ca.pem";
    /// Client certificates that were revoked, unless the database holds a list.
    PATH_L7R_SSL_CRL: PathBuf = "path.l7r.ssl.crl", "${path.l7r.ssl}/crl.pem";
    /// Whether there are tenants of which administrators may be; without, those above all tenants may not enter the web tool.
    WAT_MULTITENANT: bool = "wat.multitenant", "1";
    /// Whether the web tool may download images from addresses that are not global (loopback, private, link-local ...). Only in
    /// the file. Not in classic QVD.
    WAT_DOWNLOAD_PRIVATE: bool = "wat.download.private", "0";
    /// How many images the web tool downloads at the same time; 0: none. Only in the file. Not in classic QVD.
    WAT_DOWNLOAD_LIMIT: u32 = "wat.download.limit", "4";
    /// Directory of noVNC, which shows desktops in the browser: that of Debian's package novnc. Only in the file. Not in classic QVD.
    WAT_NOVNC_DIR: PathBuf = "wat.novnc.dir", "/usr/share/novnc";
    /// Directory of the certificate that the web tool shows, made there unless one is given.
    PATH_API_SSL: PathBuf = "path.api.ssl", "/etc/qvd/api/certs";
    /// Certificate chain that the web tool shows.
    PATH_API_SSL_CERT: PathBuf = "path.api.ssl.cert", "${path.api.ssl}/cert.pem";
    /// Private key of that certificate.
    PATH_API_SSL_KEY: PathBuf = "path.api.ssl.key", "${path.api.ssl}/key.pem";
    /// Where the web tool listens: scheme (https or http), address (* for all) and port.
    API_URL: String = "api.url", "https://*:8444/";
    /// Directory that holds qvd-vma and qvd-keeper; empty for the directory of the running program.
    PATH_QVD_BIN: String = "path.qvd.bin", "";

    /// Port on which users connect.
    L7R_PORT: u16 = "l7r.port", "8443";
    /// Address on which users connect; * for all.
    L7R_ADDRESS: String = "l7r.address", "*";
    /// Whether users connect with TLS. Switch it off only behind something that terminates TLS.
    L7R_USE_SSL: bool = "l7r.use_ssl", "1";
    /// Versions of TLS, in the words of classic QVD: a version named means that one and later ones, ! forbids one. Only
    /// TLS 1.2 and 1.3 are spoken.
    L7R_SSL_VERSION: String = "l7r.options.SSL_version", "TLSv1_2:!SSLv3:!SSLv2:!TLSv1";
    /// Cipher suites, in the words of OpenSSL. Only those with forward secrecy and authenticated encryption are spoken;
    /// those of TLS 1.3 are all offered unless the list names some (TLS_AES_128_GCM_SHA256, ...).
    L7R_SSL_CIPHERS: String = "l7r.options.SSL_cipher_list", "HIGH:!aNULL:!MD5:!RC4:!3DES:!DES:!MEDIUM:!LOW:!EXPORT";
    /// Whether clients must show a certificate of an authority in l7r.ssl.ca. Without, one is asked for and checked
    /// when there are authorities, and clients may show none.
    L7R_CLIENT_CERT: bool = "l7r.client.cert.require", "0";
    /// Addresses and networks of load balancers that begin every connection with a PROXY header (version 1 or 2).
    /// Nobody else's is looked at.
    L7R_PROXY_FROM: Networks = "l7r.proxy.from", "";
    /// Failed logins of one user in a minute; then answered with 429. 0 for any number.
    L7R_FAILURES_USER: u32 = "l7r.auth.failures.user", "10";
    /// The same for one address (IPv6: a /64 network), whoever the user.
    L7R_FAILURES_ADDRESS: u32 = "l7r.auth.failures.address", "60";
    /// Whether users may connect over QUIC, too: UDP on the port of l7r.port. Needs l7r.use_ssl. Not in classic QVD.
    L7R_QUIC: bool = "l7r.quic", "1";
    /// Who decides how fast QUIC sends: cubic, bbr or newreno. Not in classic QVD. At 1 % loss bbr sends many times
    /// faster than cubic, without loss as fast.
    L7R_QUIC_CONGESTION: CongestionControl = "l7r.quic.congestion", "bbr";
    /// UDP port on which routers of other nodes reach the VMs of this one where vm.network.mode is routed. A router that replaces
    /// another, which still serves its users, takes one of the seven behind it. Not in classic QVD.
    L7R_NODE_PORT: u16 = "l7r.node.port", "8444";
    /// Account that l7r becomes once its port is bound. Classic stays root.
    L7R_AS_USER: String = "l7r.as_user", "nobody";
    /// Salt of classic password digests.
    L7R_SALT: String = "l7r.auth.plugin.default.salt", "qvd1234";
    /// Characters that may part login and tenant.
    L7R_SEPARATORS: String = "l7r.auth.plugin.default.separators", "@#";
    /// Tenant of a login that names none.
    L7R_TENANT: String = "l7r.auth.plugin.default.tenant", "default";
    /// Authenticators that every tenant's logins pass before the tenant's own. Only for everybody.
    L7R_AUTH_HEAD: Vec<String> = "l7r.auth.plugins.head", "";
    /// Authenticators between head and tail, per tenant: default, ldap, auto, TOTP.
    L7R_AUTH: Vec<String> = "l7r.auth.plugins", "";
    /// Authenticators that every tenant's logins pass after the tenant's own. Only for everybody.
    L7R_AUTH_TAIL: Vec<String> = "l7r.auth.plugins.tail", "default";
    /// Digits of a one-time password, which is written behind the password.
    TOTP_SIZE: u32 = "l7r.auth.plugin.totp.token_size", "6";
    /// Length of the intervals of one-time passwords in seconds.
    TOTP_INTERVAL: u32 = "l7r.auth.plugin.totp.interval", "30";
    /// When the intervals of one-time passwords are counted from, in seconds since 1970.
    TOTP_T0: u32 = "l7r.auth.plugin.totp.t0", "0";
    /// Past intervals whose one-time passwords are accepted.
    TOTP_LEEWAY: u32 = "l7r.auth.plugin.totp.leeway", "1";
    /// Future intervals whose one-time passwords are accepted.
    TOTP_LEEWAY_BEFORE: u32 = "l7r.auth.plugin.totp.leeway_before", "0";
    /// User (id) whose VMs are the pool of VMPoolAppServerAuthenticator; 0 for none, which is an error.
    POOL_OWNER: u32 = "l7r.auth.plugin.vm_pool.ephemeral_vm_owner_id", "0";
    /// LDAP servers: host, host:port or ldap:// and ldaps:// addresses, the next asked when one does not answer.
    LDAP_HOST: Vec<String> = "auth.ldap.host", "";
    /// Where in the directory users are searched.
    LDAP_BASE: String = "auth.ldap.base", "";
    /// Which entry is a user's; %u stands for the login.
    LDAP_FILTER: String = "auth.ldap.filter", "(uid=%u)";
    /// How deep users are searched: base, one or sub.
    LDAP_SCOPE: String = "auth.ldap.scope", "base";
    /// When aliases are followed: never, search, find or always.
    LDAP_DEREF: String = "auth.ldap.deref", "never";
    /// Who searches, %u stands for the login; empty for nobody (anonymous).
    LDAP_BINDDN: String = "auth.ldap.binddn", "";
    /// Password of whoever searches; empty for that of the user.
    LDAP_BINDPASS: String = "auth.ldap.bindpass", "";
    /// Name of a user's entry, %u stands for the login; tried before any search.
    LDAP_USERBINDPATTERN: String = "auth.ldap.userbindpattern", "";
    /// Regular expression: lets a user in whose password was refused with such a message (RACF).
    LDAP_RACF_ALLOW: String = "auth.ldap.racf_allowregex", "";
    /// The entry's uid takes the place of the login.
    LDAP_NAME_NORMALIZE: bool = "auth.ldap.name.normalize", "0";
    /// Another name of auth.ldap.name.normalize.
    LDAP_NORMALIZE_NAME: bool = "auth.ldap.normalize.name", "0";
    /// The entry's homeDirectory becomes the home in the VM.
    LDAP_HOME_SET: bool = "auth.ldap.home.set", "0";
    /// Asks ldap:// servers for encryption (StartTLS) before anything else. Not in classic.
    LDAP_STARTTLS: bool = "auth.ldap.starttls", "0";
    /// File (PEM) with the authorities of LDAP servers; empty for those of the system. Not in classic.
    LDAP_CA: String = "auth.ldap.ca", "";
    /// How long one LDAP server may take for a login before the next is asked. Not in classic.
    LDAP_TIMEOUT: Duration = "auth.ldap.timeout", "5";
    /// Connections to LDAP servers that a router opens at the same time for the logins of a tenant; who comes then waits,
    /// as long as one server may take. Not in classic.
    LDAP_CONNECTIONS: u32 = "auth.ldap.connections", "32";
    /// OSF (id) of which every user gets a VM; 0 for none, which is an error.
    AUTO_OSF: u32 = "auth.auto.osf_id", "0";
    /// Tag of the disk image of VMs made so.
    AUTO_TAG: String = "auth.auto.di_tag", "default";
    /// How many names are tried for such a VM.
    AUTO_MAX_VMS: u32 = "auth.auto.max_vms", "5";
    /// Whether logins differ by case.
    LOGIN_CASE_SENSITIVE: bool = "model.user.login.case-sensitive", "0";
    /// Balancer that places VMs; names the SQL function place_<name>. default is the formula of classic QVD; load also
    /// looks at free memory, at how busy processors are and at starts that failed.
    L7R_LOADBALANCER: String = "l7r.loadbalancer.plugin", "load";
    /// Weight of memory when a VM is placed.
    L7R_WEIGHT_RAM: u32 = "l7r.loadbalancer.plugin.default.weight.ram", "1";
    /// Weight of processing power when a VM is placed.
    L7R_WEIGHT_CPU: u32 = "l7r.loadbalancer.plugin.default.weight.cpu", "1";
    /// Weight of chance when a VM is placed.
    L7R_WEIGHT_RANDOM: u32 = "l7r.loadbalancer.plugin.default.weight.random", "1";
    /// Whether the balancer load places a VM where its user has others, as long as it fits. Not in classic QVD.
    L7R_SAME_USER: bool = "l7r.loadbalancer.plugin.load.same_user", "0";
    /// A session in which nothing is typed, clicked or drawn for this long is ended; 0 for no limit. What a desktop draws by
    /// itself, such as a clock, counts; what NX says on an idle link does not. Per tenant, and only in the database.
    L7R_SESSION_IDLE_LIMIT: Duration = "l7r.session.idle_limit", "0";
    /// A session that lasts this long is ended; 0 for no limit. Per tenant, and only in the database.
    L7R_SESSION_LIMIT: Duration = "l7r.session.limit", "0";
    /// How long a client waits for its VM to run.
    L7R_TIMEOUT_VM_START: Duration = "internal.l7r.timeout.vm_start", "270";
    /// How long a client waits for its VM to stop.
    L7R_TIMEOUT_VM_STOP: Duration = "internal.l7r.timeout.vm_stop", "270";
    /// How long a router that was told to end a session may take. One that takes longer is dead or cut off, and the user
    /// gets the desktop through another.
    L7R_TIMEOUT_ABORT: Duration = "internal.l7r.timeout.abort", "3";
    /// How long a client waits for another client to be sent away.
    L7R_TIMEOUT_TAKEOVER: Duration = "internal.l7r.timeout.takeover", "30";
    /// How long a client waits for the X session once it is starting.
    L7R_TIMEOUT_X_START: Duration = "internal.l7r.timeout.x_start", "10";
    /// Limit for one question to an agent.
    L7R_TIMEOUT_VMA: Duration = "internal.l7r.timeout.vma", "4";
    /// Further attempts to start an X session.
    L7R_RETRY_X_START: u32 = "internal.l7r.retry.x_start", "20";
    /// How often a waiting client is told that its VM is still starting.
    L7R_POLL_VM: Duration = "internal.l7r.poll_time.vm", "2";
    /// Slowest rate at which an agent that cannot report changes is asked for its X state.
    L7R_POLL_X: Duration = "internal.l7r.poll_time.x", "0.5";
    /// A session that ends sooner counts as short.
    L7R_SHORT_SESSION: Duration = "internal.l7r.short_session", "120";
    /// How long a new connection may take to finish its TLS handshake.
    L7R_TIMEOUT_HANDSHAKE: Duration = "internal.l7r.timeout.handshake", "20";
    /// Whether tunnels are encrypted by the kernel where it can do that.
    L7R_KTLS: bool = "internal.l7r.ktls", "1";
    /// How long a client may take to send a request: from its first byte, and until it has logged in also for that one.
    L7R_TIMEOUT_HEAD: Duration = "internal.l7r.timeout.head", "60";
    /// Connections that have not logged in, at the same time; more are closed at once. 0 for any number.
    L7R_STRANGERS: u32 = "internal.l7r.limit.strangers", "4096";
    /// The same from one address (IPv6: a /64 network).
    L7R_STRANGERS_ADDRESS: u32 = "internal.l7r.limit.strangers.address", "512";
    /// Silence after which a client that uses QUIC is gone; until then it may be changing networks.
    L7R_QUIC_IDLE: Duration = "internal.l7r.quic.timeout.idle", "60";
    /// Largest request head in bytes.
    L7R_HEAD_LIMIT: u32 = "internal.l7r.head.limit", "65536";
    /// Passwords hashed at the same time; 0 for one per processor.
    L7R_HASH_LIMIT: u32 = "internal.l7r.hash.limit", "0";

    /// Renewal of the node's lease (classic: ticker, 120 s).
    HKD_LEASE_RENEW: Duration = "internal.hkd.lease.renew", "2";
    /// A lease not renewed for this long has lapsed. A node that gives no sign of life on the storage either for as long
    /// is given up: others take its VMs over. A node takes up a change when hkd starts.
    HKD_LEASE_LAPSE: Duration = "internal.hkd.lease.lapse", "10";
    /// What part of it is kept for VMs to die in: a node that can give no sign of life ends its VMs this long before
    /// others take them over.
    FENCE_MARGIN: Duration = "fence.margin", "2";
    /// Whether a node restarts its machine at once when it must end a VM and the VM does not die.
    FENCE_REBOOT: bool = "fence.reboot", "1";
    /// Shell command that mounts the shared storage anew. It is run after VMs had to end because the node could give no sign
    /// of life, before anything of the storage is used again. Empty: the machine is restarted if fence.reboot allows it, else
    /// the node waits for an administrator. Only in the file.
    FENCE_REMOUNT: String = "fence.remount", "";
    /// Whether the storage belongs to this node alone. Then nobody takes its VMs over and nothing ends them.
    STORAGE_LOCAL: bool = "storage.local", "0";
    /// Interval at which a healthy node looks for work that nothing announced.
    HKD_POLL_RELAXED: Duration = "internal.hkd.poll.relaxed", "30";
    /// The same while notifications cannot be relied upon.
    HKD_POLL_URGENT: Duration = "internal.hkd.poll.urgent", "1";
    /// Age at which the cluster's beat is renewed.
    HKD_BEAT: Duration = "internal.hkd.beat", "5";
    /// How long entries of table log are kept; 0 for ever.
    RETENTION_LOG: Duration = "retention.log", "31536000";
    /// How long sessions are remembered that have ended; 0 for ever.
    RETENTION_SESSIONS: Duration = "retention.sessions", "31536000";
    /// How often a node deletes what was kept that long.
    RETENTION_INTERVAL: Duration = "internal.hkd.retention.interval", "3600";
    /// How old the list of a staging directory may be before a node lists it anew.
    HKD_STAGING_INTERVAL: Duration = "internal.hkd.staging.interval", "30";
    /// How long an unpacked image is kept aside once it belongs to no disk image any more. A database that was restored or
    /// promoted may not know of one that VMs run from.
    HKD_BASEFS_KEEP: Duration = "internal.hkd.basefs.keep", "86400";
    /// How often unpacked images are removed that belong to no disk image any more.
    HKD_BASEFS_INTERVAL: Duration = "internal.hkd.basefs.interval", "3600";
    /// VMs of one node that may be starting or stopping at the same time.
    HKD_MAX_HEAVY: u32 = "internal.hkd.max_heavy", "10";
    /// Interval between pings of a healthy agent.
    HKD_PING_OK: Duration = "internal.hkd.vmhandler.vma_monitor.delay.after.ok", "120";
    /// Interval between pings of an agent that did not answer.
    HKD_PING_ERROR: Duration = "internal.hkd.vmhandler.vma_monitor.delay.after.error", "10";
    /// Silence after which the agent of a starting VM is given up.
    HKD_FAILED_STARTING: Duration = "internal.hkd.vmhandler.vma.failed.max_time.on.starting", "180";
    /// Pings that must fail before the agent of a starting VM is given up.
    HKD_FAILED_COUNT_STARTING: u32 = "internal.hkd.vmhandler.vma.failed.max_count.on.starting", "40";
    /// Silence after which the agent of a running VM is dead.
    HKD_FAILED_RUNNING: Duration = "internal.hkd.vmhandler.vma.failed.max_time.on.running", "320";
    /// Pings that must fail before the agent of a running VM is dead.
    HKD_FAILED_COUNT_RUNNING: u32 = "internal.hkd.vmhandler.vma.failed.max_count.on.running", "10";
    /// Limit for one question to an agent.
    HKD_TIMEOUT_RPC: Duration = "internal.hkd.agent.rpc.timeout", "3";
    /// How often an agent that runs is asked again to power off before its VM is killed.
    HKD_RPC_RETRIES: u32 = "internal.hkd.agent.rpc.retry.count", "3";
    /// Pause before that.
    HKD_RPC_DELAY: Duration = "internal.hkd.agent.rpc.retry.delay", "5";
    /// How long a start waits for one of the node's slots before it is given up.
    HKD_TIMEOUT_SLOT: Duration = "internal.hkd.timeout.slot", "900";
    /// How long a disk image may take to become ready.
    HKD_TIMEOUT_PREPARE: Duration = "internal.hkd.timeout.prepare", "900";
    /// How long a VM may take until its first process runs.
    HKD_TIMEOUT_LAUNCH: Duration = "internal.hkd.timeout.launch", "120";
    /// How long freeing what a VM left may take before it is called a zombie.
    HKD_TIMEOUT_CLEAN: Duration = "internal.hkd.timeout.clean", "120";
    /// How often a user is told again that the VM has expired softly.
    HKD_EXPIRATION: Duration = "internal.hkd.agent.expiration_monitor.delay", "3600";
    /// How long the sessions of a node's router may take to end when the node is told to stop.
    HKD_STOPPING_L7RS: Duration = "internal.hkd.stopping.l7rs.timeout", "300";
    /// How long the VMs of a node may take to stop when the node is told to; then they are killed.
    HKD_STOPPING_VMS: Duration = "internal.hkd.stopping.vms.timeout", "300";
    /// Pause between attempts to kill them.
    HKD_KILLING_VMS: Duration = "internal.hkd.killing.vms.retry.timeout", "100";
    /// How long a VM, of whatever kind, may take to shut down by itself, and how long that may wait for a slot.
    HKD_TIMEOUT_SHUTDOWN: Duration = "internal.hkd.lxc.timeout.on_state.stopping.shutdown.waiting_for_lxc", "180";
    /// How long a VM may take to die once it was killed.
    HKD_TIMEOUT_STOP: Duration = "internal.hkd.lxc.timeout.on_state.stopping.stop.waiting_for_lxc", "120";
    /// Pause between attempts to clean up a zombie.
    HKD_ZOMBIE_DELAY: Duration = "internal.hkd.lxc.timeout.on_state.zombie.reap.delaying", "60";
    /// Keeps VMs whose agent died, in state debugging.
    VM_DEBUG: bool = "internal.vm.debug.enable", "0";
    /// How long a simulated VM takes to start.
    NOTHING_STARTING: Duration = "internal.hkd.nothing.timeout.on_state.starting", "5";
    /// How long a simulated VM takes to stop.
    NOTHING_STOPPING: Duration = "internal.hkd.nothing.timeout.on_state.stopping", "5";
    /// Limit of hkd and of all that it starts: address space in bytes. A number or unlimited; empty for that of the system.
    LIMIT_AS: String = "hkd.process.limit.as", "";
    /// How far that limit may be raised again.
    LIMIT_HARD_AS: String = "hkd.process.limit.hard.as", "";
    /// Limit of hkd and of all that it starts: size of core dumps in bytes. A number or unlimited; empty for that of the system.
    LIMIT_CORE: String = "hkd.process.limit.core", "";
    /// How far that limit may be raised again.
    LIMIT_HARD_CORE: String = "hkd.process.limit.hard.core", "";
    /// Limit of hkd and of all that it starts: data segment in bytes. A number or unlimited; empty for that of the system.
    LIMIT_DATA: String = "hkd.process.limit.data", "";
    /// How far that limit may be raised again.
    LIMIT_HARD_DATA: String = "hkd.process.limit.hard.data", "";
    /// Limit of hkd and of all that it starts: size of files in bytes. A number or unlimited; empty for that of the system.
    LIMIT_FSIZE: String = "hkd.process.limit.fsize", "";
    /// How far that limit may be raised again.
    LIMIT_HARD_FSIZE: String = "hkd.process.limit.hard.fsize", "";
    /// Limit of hkd and of all that it starts: locked memory in bytes. A number or unlimited; empty for that of the system.
    LIMIT_MEMLOCK: String = "hkd.process.limit.memlock", "";
    /// How far that limit may be raised again.
    LIMIT_HARD_MEMLOCK: String = "hkd.process.limit.hard.memlock", "";
    /// Limit of hkd and of all that it starts: how far priority may be raised (20 less nice). A number or unlimited; empty for that of the system.
    LIMIT_NICE: String = "hkd.process.limit.nice", "";
    /// How far that limit may be raised again.
    LIMIT_HARD_NICE: String = "hkd.process.limit.hard.nice", "";
    /// Limit of hkd and of all that it starts: number of open files. A number or unlimited; empty for that of the system.
    LIMIT_NOFILE: String = "hkd.process.limit.nofile", "";
    /// How far that limit may be raised again.
    LIMIT_HARD_NOFILE: String = "hkd.process.limit.hard.nofile", "";
    /// Limit of hkd and of all that it starts: size of the stack in bytes. A number or unlimited; empty for that of the system.
    LIMIT_STACK: String = "hkd.process.limit.stack", "";
    /// How far that limit may be raised again.
    LIMIT_HARD_STACK: String = "hkd.process.limit.hard.stack", "";
    /// Held by hkd while it runs.
    HKD_LOCK: PathBuf = "internal.hkd.lock.path", "${path.run}/hkd.lock";

    /// Kinds of VMs that this node may run.
    HKD_HYPERVISORS: Vec<String> = "internal.hkd.hypervisor_list", "lxc,kvm,nothing";
    /// What VMs are: lxc (containers), kvm (QEMU guests) or nothing (simulated).
    VM_HYPERVISOR: String = "vm.hypervisor", "lxc";
    /// Keeps what a VM wrote outside its home from one run to the next.
    VM_OVERLAY_PERSISTENT: bool = "vm.overlay.persistent", "0";
    /// The first id on the node of users inside containers, of which each container has 65536 of its own; 0: they have the ids
    /// of the node's users. Not in classic QVD.
    VM_LXC_IDS: u32 = "vm.lxc.ids", "1000000000";
    /// Whether programs in containers that are set-user-id or have capabilities of their own (sudo, ping, fusermount) get no
    /// privileges by them. Not in classic QVD.
    VM_LXC_NO_NEW_PRIVS: bool = "vm.lxc.no_new_privs", "1";
    /// Whether what disk images of the extended kind bring for the node is heeded: hooks, which root of the node runs, and
    /// settings of LXC (lxc/config-extra, lxc/fstab).
    VM_LXC_HOOKS: bool = "vm.lxc.hooks.allow", "0";
    /// Further lines of the configuration of every container, in the words of LXC.
    VM_LXC_EXTRA: String = "internal.vm.lxc.conf.extra", "";
    /// How containers write into what looks like their image: overlayfs (a layer over it), btrfs (a snapshot of it), reflink
    /// (a copy that shares its blocks with it; classic: xfs), or auto: a snapshot where the storage is btrfs, a layer where that
    /// can be, a copy where it cannot. Classic: overlayfs.
    VM_LXC_UNIONFS: UnionKind = "vm.lxc.unionfs.type", "auto";
    /// What a container may write outside its home; 0: as much as there is. Not in classic QVD.
    VM_LXC_OVERLAY_SIZE: u32 = "vm.lxc.overlay.size", "0";
    /// Holds the homes of containers to the size that their OSF says, each in a file with a file system of that size. Homes
    /// that are directories with something in them stay so. 0: homes are directories without a limit, as in classic QVD.
    VM_LXC_HOME_LIMIT: bool = "vm.lxc.home.limit", "0";
    /// Whether all containers of a user have one home, which outlives them. Several can have it at once when they run on the same
    /// node and it has no limit; else one at a time. Classic mounts it one level deeper.
    VM_LXC_HOME_PER_USER: bool = "vm.lxc.home.per.user", "0";
    /// Whether all KVM guests of a user have one home, one guest at a time. Not in classic QVD.
    VM_KVM_HOME_PER_USER: bool = "vm.kvm.home.per.user", "0";
    /// The first id on the node of the accounts that KVM guests run as, each as one of its own; 0: they run as root. Not in classic
    /// QVD.
    VM_KVM_IDS: u32 = "vm.kvm.ids", "1000000000";
    /// Processors of a KVM guest whose OSF does not say how many it has.
    VM_KVM_CPUS: u32 = "vm.kvm.cpus", "2";
    /// What executes KVM guests: kvm (the processor), tcg (emulation, ten times slower and more) or auto: kvm where a tiny
    /// guest really runs with it, which is tried once after each boot, else tcg. Not in classic QVD.
    VM_KVM_ACCELERATION: String = "vm.kvm.acceleration", "auto";
    /// Whether the node gets memory back that a KVM guest does not use. Classic: 0.
    VM_KVM_BALLOONING: bool = "vm.kvm.ballooning", "1";
    /// Whether what a KVM guest writes to its serial port is kept in path.serial.captures.
    VM_SERIAL_CAPTURE: bool = "vm.serial.capture", "0";
    /// Whether the screen of a KVM guest can be seen: by VNC on the socket qemu/vnc.sock in its directory below path.run. Classic
    /// listens on a TCP port.
    VM_VNC: bool = "vm.vnc.redirect", "0";
    /// Further options of that, in the words of QEMU.
    VM_VNC_OPTS: String = "vm.vnc.opts", "";
    /// Who shares the VM network: flat, all nodes and VMs, whose bridges you join; or routed, each node with its own VMs, to
    /// which routers of other nodes come through it. The same on all nodes. Not in classic QVD.
    VM_NETWORK_MODE: NetworkMode = "vm.network.mode", "flat";
    /// Bridge that VMs are plugged into; made when missing.
    VM_BRIDGE: String = "vm.network.bridge", "qvdnet";
    /// First address that VMs may have, of IPv4 or IPv6; nodes have those below. Classic: only IPv4.
    VM_IP_START: IpAddr = "vm.network.ip.start", "10.0.0.100";
    /// Netmask of the VM network, dotted or as a prefix length.
    VM_NETMASK: String = "vm.network.netmask", "255.255.0.0";
    /// Gateway of VMs; empty for the node itself.
    VM_GATEWAY: String = "vm.network.gateway", "";
    /// Beginning of a second VM network, of IPv6, above one of IPv4, for example fd00:51::/64, at most 96 long: nodes and VMs have
    /// in it an address that ends with their IPv4 address. Empty for none. Not in classic QVD.
    VM_IP6_PREFIX: String = "vm.network.ip6.prefix", "";
    /// Gateway of VMs in that second network; empty for the node itself. Not in classic QVD.
    VM_IP6_GATEWAY: String = "vm.network.ip6.gateway", "";
    /// Whether the node answers VMs that ask by DHCP for their addresses, with the program dnsmasq, and tells those of IPv6 that it is
    /// their gateway, where it is. They are the same that they are given anyway, for images that set up their network themselves.
    /// Classic: 1.
    VM_DHCP: bool = "vm.network.use_dhcp", "0";
    /// Name of the domain that VMs are told so; empty for none.
    VM_DOMAIN: String = "vm.network.domain", "";
    /// Name servers of VMs; empty for those of the node.
    VM_DNS: Vec<String> = "vm.network.dns", "";
    /// First three octets of the MAC addresses of VMs.
    VM_MAC_PREFIX: String = "vm.network.mac.prefix", "54:52:00";
    /// Interface through which VMs reach other networks; empty for none.
    VM_NAT_IFACE: String = "vm.network.firewall.nat.iface", "";
    /// Whether the node's packet filter protects nodes and VMs from VMs.
    VM_FIREWALL: bool = "internal.vm.network.firewall.enable", "1";
    /// Whether that lets VMs reach the routers of the nodes, so that users can log in from inside.
    VM_LOGIN: bool = "internal.vm.network.firewall.allow_login_from_vm", "0";
    /// Prefix of the names of VM interfaces on the node.
    VM_DEVICE_PREFIX: String = "internal.vm.network.device.prefix", "qvd";
    /// Port of the agent inside a VM.
    VM_PORT_VMA: u16 = "internal.vm.port.vma", "3030";
    /// X display inside a VM; nxagent listens 4000 above it.
    NXAGENT_DISPLAY: u32 = "internal.nxagent.display", "100";
    /// Memory of VMs whose OSF does not say, in MB.
    OSF_MEMORY: u32 = "osf.default.memory", "256";
}
