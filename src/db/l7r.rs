//! What l7r asks of the database (`sql/functions/60_l7r.sql`).

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use tokio_postgres::{Row, types::ToSql};

use crate::model::{HostId, HostState, InstanceId, SessionId, TenantId, UserId, VmId, VmSecret, VmState};

use super::{Database, DbError, node::word};

/// An L7R process that has announced itself.
#[derive(Clone, Debug)]
pub struct Started {
    /// Its node.
    pub host: HostId,
    /// By which other nodes know its node: in the VM network unless that is routed.
    pub address: IpAddr,
    /// This run.
    pub instance: InstanceId,
}

/// Another run of L7R on record for a node.
#[derive(Clone, Debug)]
pub struct Instance {
    /// The run.
    pub instance: InstanceId,
    /// Kernel it ran under.
    pub boot_id: String,
    /// Its process.
    pub pid: i32,
    /// Start time of that process in ticks since boot.
    pub pid_start: i64,
}

impl Instance {
    pub(super) fn read(row: &Row) -> Self {
        Self { instance: InstanceId(row.get(0)), boot_id: row.get(1), pid: row.get(2), pid_start: row.get(3) }
    }
}

/// Why a session must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbortCause {
    /// A client at this address wants the VM.
    Contender(IpAddr),
    /// The VM has stopped.
    Stopped,
    /// Somebody with the right to it said so.
    Administrator,
}

impl AbortCause {
    fn of(contender: Option<IpAddr>, stopped: bool) -> Self {
        match contender {
            _ if stopped => Self::Stopped,
            Some(address) => Self::Contender(address),
            None => Self::Administrator,
        }
    }
}

impl fmt::Display for AbortCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Contender(address) => write!(f, "taken over by a client at {address}"),
            Self::Stopped => f.write_str("the desktop was stopped"),
            Self::Administrator => f.write_str("disconnected by an administrator"),
        }
    }
}

/// Whether a node serves users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostStatus {
    /// Its state.
    pub state: HostState,
    /// An administrator took it out of service.
    pub blocked: bool,
}

/// The account behind a login.
#[derive(Clone)]
pub struct Account {
    /// The user.
    pub user: UserId,
    /// The user's tenant.
    pub tenant: TenantId,
    /// The login as stored.
    pub login: String,
    /// What a password is checked against; `None`: no password opens this account here.
    pub password: Option<String>,
    /// The user or the tenant is blocked.
    pub blocked: bool,
}

/// A VM as its user sees it in the list.
#[derive(Clone, Debug)]
pub struct ListedVm {
    /// The VM.
    pub vm: VmId,
    /// Its name.
    pub name: String,
    /// Its state.
    pub state: VmState,
    /// Offline for maintenance.
    pub blocked: bool,
    /// Made from an OSF of applications.
    pub is_application: bool,
}

/// What is checked before a VM is touched.
#[derive(Clone, Copy, Debug)]
pub struct VmCheck {
    /// Whose it is.
    pub owner: UserId,
    /// Offline for maintenance.
    pub blocked: bool,
    /// Its state.
    pub state: VmState,
}

/// A VM that now belongs to a session of ours.
#[derive(Clone, Debug)]
pub struct Acquired {
    /// Address of this node, for the agent.
    pub host_address: String,
    /// Properties for the agent, overridden in the order of classic QVD.
    pub properties: Vec<(String, String)>,
}

/// On which terms a VM is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Terms {
    /// The client may have it: every check was made.
    Checked,
    /// Only if the node serves users and the VM is the user's own and not blocked.
    Unchecked,
}

/// What came of taking a VM.
#[derive(Clone, Debug)]
pub enum Taking {
    /// It is ours, and stands like this.
    Taken(Acquired, SessionVm),
    /// Another session has it and was told to go.
    Contended,
    /// It is left alone, for something is not as `Terms::Unchecked` want it; `Database::l7r_vm` says what.
    Unfit,
}

/// What tunnels of one way have done since it was counted last.
#[derive(Clone, Copy, Debug)]
pub struct TunnelCount {
    /// How their bytes are moved.
    pub way: &'static str,
    /// How many were opened.
    pub tunnels: u64,
    /// Bytes from clients.
    pub up: u64,
    /// Bytes to clients.
    pub down: u64,
}

/// What came of asking for a VM to be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartAsked {
    /// It will be, or is already.
    Accepted,
    /// No node can take it.
    NoHost,
    /// It cannot be; why is kept with the VM, for administrators.
    Refused,
}

/// How the VM of a session stands.
#[derive(Clone, Debug)]
pub struct SessionVm {
    /// Its state.
    pub state: VmState,
    /// A command waits to be taken.
    pub commanded: bool,
    /// Somebody wants this session to end.
    pub aborted: Option<AbortCause>,
    /// It has a node.
    pub placed: bool,
    /// Where its agent listens.
    pub vma: Option<SocketAddr>,
    /// Where nxagent listens.
    pub x: Option<SocketAddr>,
    /// Shared with its agent.
    pub secret: Option<VmSecret>,
    /// Why its last run ended, if it did.
    pub reason: Option<String>,
}

impl Database {
    /// Announces this process as an L7R of the node.
    pub async fn l7r_start(&self, node: &str, boot_id: &str, pid: i32, pid_start: i64) -> Result<Started, DbError> {
        let connection = self.connection().await?;
        let row = connection
            .query_one(
                "select node, address, instance from l7r_start($1, $2::text::uuid, $3, $4)",
                &[&node, &boot_id, &pid, &pid_start],
            )
            .await?;
        Ok(Started { host: HostId(row.get(0)), address: row.get(1), instance: InstanceId(row.get(2)) })
    }

    /// The runs on record for a node that have not ended.
    pub async fn l7r_instances(&self, host: HostId) -> Result<Vec<Instance>, DbError> {
        let connection = self.connection().await?;
        let rows = connection
            .query("select instance, boot_id::text, pid, pid_start from l7r_instances_of($1)", &[&host.0])
            .await?;
        Ok(rows.iter().map(Instance::read).collect())
    }

    /// Ends instances that are proven gone, with all their sessions. Returns the number of sessions.
    pub async fn l7r_gone(&self, instances: &[InstanceId], reason: &str) -> Result<i32, DbError> {
        let ids: Vec<i64> = instances.iter().map(|instance| instance.0).collect();
        let connection = self.connection().await?;
        Ok(connection.query_one("select l7r_gone($1, $2)", &[&ids, &reason]).await?.get(0))
    }

    /// Whether the node serves users; `None` when it is no longer on record.
    pub async fn l7r_host(&self, host: HostId) -> Result<Option<HostStatus>, DbError> {
        let connection = self.connection().await?;
        let statement = connection.prepare_cached("select state::text, blocked from l7r_host($1)").await?;
        let row = connection.query_one(&statement, &[&host.0]).await?;
        let state: Option<&str> = row.get(0);
        state.map(|state| Ok(HostStatus { state: word(state)?, blocked: row.get(1) })).transpose()
    }

    /// The account of a login in a tenant, both normalised.
    pub async fn l7r_user(&self, login: &str, tenant: &str) -> Result<Option<Account>, DbError> {
        let connection = self.connection().await?;
        let statement = connection
            .prepare_cached("select user_id, tenant_id, login, password, blocked from l7r_user($1, $2)")
            .await?;
        let row = connection.query_one(&statement, &[&login, &tenant]).await?;
        let user: Option<i32> = row.get(0);
        Ok(user.map(|user| Account {
            user: UserId(user),
            tenant: TenantId(row.get(1)),
            login: row.get(2),
            password: row.get(3),
            blocked: row.get(4),
        }))
    }

    /// Stores a stronger hash of the same password, unless the password was changed meanwhile.
    pub async fn l7r_password_upgrade(&self, user: UserId, was: &str, becomes: &str) -> Result<bool, DbError> {
        let connection = self.connection().await?;
        Ok(connection.query_one("select l7r_password_upgrade($1, $2, $3)", &[&user.0, &was, &becomes]).await?.get(0))
    }

    /// Whether the node serves users, and the user's desktops or applications; `None` when the node is no longer on
    /// record.
    pub async fn l7r_list(
        &self,
        host: HostId,
        user: UserId,
        applications: bool,
    ) -> Result<Option<(HostStatus, Vec<ListedVm>)>, DbError> {
        let connection = self.connection().await?;
        let statement = connection
            .prepare_cached(
                "select host_state::text, host_blocked, id, name, state::text, blocked, is_application \
                 from l7r_list($1, $2, $3)",
            )
            .await?;
        let rows = connection.query(&statement, &[&host.0, &user.0, &applications]).await?;
        let Some(first) = rows.first() else { return Ok(None) };
        let status = HostStatus { state: word(first.get(0))?, blocked: first.get(1) };
        let vms = rows.iter().filter_map(|row| Some((row.get::<_, Option<i32>>(2)?, row)));
        let vms = vms.map(|(vm, row)| {
            Ok(ListedVm {
                vm: VmId(vm),
                name: row.get(3),
                state: word(row.get(4))?,
                blocked: row.get(5),
                is_application: row.get(6),
            })
        });
        Ok(Some((status, vms.collect::<Result<_, DbError>>()?)))
    }

    /// Keeps what authentication found out about a user, for tokens that others will make; its id.
    pub async fn l7r_auth_parameters_keep(&self, user: UserId, found: &[(String, String)]) -> Result<i32, DbError> {
        let connection = self.connection().await?;
        let statement = connection.prepare_cached("select l7r_auth_parameters_keep($1, $2)").await?;
        Ok(connection.query_one(&statement, &[&user.0, &object(found)]).await?.get(0))
    }

    /// Makes a token that stands for a user; the id of what authentication found out, which goes with it.
    pub async fn l7r_token_create(
        &self,
        user: UserId,
        token: &str,
        found: &[(String, String)],
    ) -> Result<i32, DbError> {
        let connection = self.connection().await?;
        let statement = connection.prepare_cached("select l7r_token_create($1, $2, $3, null)").await?;
        Ok(connection.query_one(&statement, &[&user.0, &token, &object(found)]).await?.get(0))
    }

    /// Whether the node serves users, and owner and state of a VM, if there is such a VM; `None` when the node is no
    /// longer on record.
    pub async fn l7r_vm(
        &self,
        host: HostId,
        vm: Option<VmId>,
    ) -> Result<Option<(HostStatus, Option<VmCheck>)>, DbError> {
        let connection = self.connection().await?;
        let statement = connection
            .prepare_cached("select host_state::text, host_blocked, owner, blocked, state::text from l7r_vm($1, $2)")
            .await?;
        let row = connection.query_one(&statement, &[&host.0, &vm.map(|vm| vm.0)]).await?;
        let state: Option<&str> = row.get(0);
        let Some(state) = state else { return Ok(None) };
        let status = HostStatus { state: word(state)?, blocked: row.get(1) };
        let owner: Option<i32> = row.get(2);
        let vm = owner.map(|owner| {
            Ok::<_, DbError>(VmCheck { owner: UserId(owner), blocked: row.get(3), state: word(row.get(4))? })
        });
        Ok(Some((status, vm.transpose()?)))
    }

    /// Takes a VM for a session, with a token for that VM that carries what authentication found out, and looks at it as
    /// `l7r_session` does. The database may forget all of it in a crash until `l7r_connected` has answered.
    pub async fn l7r_acquire(
        &self,
        (session, instance): (SessionId, InstanceId),
        (vm, terms): (VmId, Terms),
        user: UserId,
        client: IpAddr,
        token: &str,
        found: &[(String, String)],
    ) -> Result<Taking, DbError> {
        let connection = self.connection().await?;
        let statement = connection
            .prepare_cached(
                "select state::text, commanded, placed, address, vma_port, x_port, secret, reason, false, null::inet, \
                    host_address, properties, fit from l7r_acquire($1, $2, $3, $4, $5, $6, $7, $8)",
            )
            .await?;
        let unchecked = terms == Terms::Unchecked;
        let parameters: [&(dyn ToSql + Sync); 8] =
            [&session.0, &instance.0, &vm.0, &user.0, &client, &token, &object(found), &unchecked];
        let row = connection.query_one(&statement, &parameters).await?;
        if !row.get::<_, bool>(12) {
            return Ok(Taking::Unfit);
        }
        let Some(vm) = session_vm(&row)? else { return Ok(Taking::Contended) };
        let properties: serde_json::Value = row.get(11);
        let properties = properties.as_object().into_iter().flatten();
        let properties = properties.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())));
        Ok(Taking::Taken(Acquired { host_address: row.get(10), properties: properties.collect() }, vm))
    }

    /// How the VM of a session stands; `None` when the session has ended.
    pub async fn l7r_session(&self, session: SessionId) -> Result<Option<SessionVm>, DbError> {
        let connection = self.connection().await?;
        let statement = connection
            .prepare_cached(
                "select state::text, commanded, placed, address, vma_port, x_port, secret, reason, aborted, contender \
                 from l7r_session($1)",
            )
            .await?;
        session_vm(&connection.query_one(&statement, &[&session.0]).await?)
    }

    /// Asks for the VM of a session to be started, placing it first.
    pub async fn l7r_vm_start(&self, session: SessionId) -> Result<StartAsked, DbError> {
        let connection = self.connection().await?;
        let row = connection.query_one("select l7r_vm_start($1)", &[&session.0]).await?;
        Ok(match row.get::<_, Option<&str>>(0) {
            None => StartAsked::Accepted,
            Some("QV030") => StartAsked::NoHost,
            Some(_) => StartAsked::Refused,
        })
    }

    /// Asks for a VM to be stopped, because its user may and asked.
    pub async fn l7r_vm_stop(&self, vm: VmId) -> Result<(), DbError> {
        let connection = self.connection().await?;
        connection.execute("select l7r_vm_stop($1)", &[&vm.0]).await?;
        Ok(())
    }

    /// The last check before bytes flow: false when the session was aborted, has ended, or its VM no longer runs. With
    /// `resume`, a token that begins with the session's name and what authentication found out, the client may come back when
    /// its router is gone.
    pub async fn l7r_connected(
        &self,
        session: SessionId,
        way: &str,
        resume: Option<(&str, &[(String, String)])>,
    ) -> Result<bool, DbError> {
        let connection = self.connection().await?;
        let statement = connection.prepare_cached("select l7r_connected($1, $2, $3, $4)").await?;
        let (token, found) = resume.map(|(token, found)| (token, object(found))).unzip();
        let row = connection.query_one(&statement, &[&session.0, &way, &token, &found]).await?;
        let connected = row.get(0);
        if connected {
            self.settle(connection).await?;
        }
        Ok(connected)
    }

    /// The bytes of a session are moved in another way than was said when it was connected.
    pub async fn l7r_way(&self, session: SessionId, way: &str) -> Result<(), DbError> {
        let connection = self.connection().await?;
        connection.execute("select l7r_way($1, $2)", &[&session.0, &way]).await?;
        Ok(())
    }

    /// The sessions of an instance that must end, and why.
    pub async fn l7r_aborted(&self, instance: InstanceId) -> Result<Vec<(SessionId, AbortCause)>, DbError> {
        let connection = self.connection().await?;
        let statement = connection.prepare_cached("select session, contender, stopped from l7r_aborted($1)").await?;
        let rows = connection.query(&statement, &[&instance.0]).await?;
        Ok(rows.iter().map(|row| (SessionId(row.get(0)), AbortCause::of(row.get(1), row.get(2)))).collect())
    }

    /// The sessions that an instance has on record; `Revoked` when it is over.
    pub async fn l7r_sessions(&self, instance: InstanceId) -> Result<Vec<SessionId>, DbError> {
        let connection = self.connection().await?;
        let rows = connection.query("select l7r_sessions($1)", &[&instance.0]).await?;
        Ok(rows.iter().map(|row| SessionId(row.get(0))).collect())
    }

    /// A session is over. When it is `resumable`, its client may come back with the token that it was given.
    pub async fn l7r_end(
        &self,
        session: SessionId,
        reason: &str,
        up: u64,
        down: u64,
        resumable: bool,
    ) -> Result<(), DbError> {
        let connection = self.connection().await?;
        let statement = connection.prepare_cached("select l7r_end($1, $2, $3, $4, $5)").await?;
        connection.execute(&statement, &[&session.0, &reason, &(up as i64), &(down as i64), &resumable]).await?;
        self.settle(connection).await
    }

    /// Why a session of this user ended; `None` while it lasts or when it is somebody else's.
    pub async fn l7r_session_end(&self, session: SessionId, user: UserId) -> Result<Option<String>, DbError> {
        let connection = self.connection().await?;
        Ok(connection.query_one("select l7r_session_end($1, $2)", &[&session.0, &user.0]).await?.get(0))
    }

    /// Writes the bytes moved so far by sessions that go on: (session, up, down).
    pub async fn l7r_traffic(&self, sessions: &[(SessionId, u64, u64)]) -> Result<(), DbError> {
        let ids: Vec<i64> = sessions.iter().map(|(session, ..)| session.0).collect();
        let ups: Vec<i64> = sessions.iter().map(|(_, up, _)| *up as i64).collect();
        let downs: Vec<i64> = sessions.iter().map(|(.., down)| *down as i64).collect();
        let connection = self.connection().await?;
        connection.execute("select l7r_traffic($1, $2, $3)", &[&ids, &ups, &downs]).await?;
        Ok(())
    }

    /// Adds to the counters of a node, in the order of the columns of `host_counters`.
    pub async fn l7r_count(&self, host: HostId, added: [u64; 6]) -> Result<(), DbError> {
        let [requests, attempts, ok, tries, done, shorts] = added.map(|count| count as i64);
        let connection = self.connection().await?;
        connection
            .execute(
                "select l7r_count($1, $2, $3, $4, $5, $6, $7)",
                &[&host.0, &requests, &attempts, &ok, &tries, &done, &shorts],
            )
            .await?;
        Ok(())
    }

    /// Adds to what the tunnels of a node carried and to the reasons for which sessions ended.
    pub async fn l7r_count_sessions(
        &self,
        host: HostId,
        tunnels: &[TunnelCount],
        ends: &[(&str, u64)],
    ) -> Result<(), DbError> {
        let column = |value: fn(&TunnelCount) -> u64| tunnels.iter().map(|count| value(count) as i64).collect();
        let ways: Vec<&str> = tunnels.iter().map(|count| count.way).collect();
        let [opened, ups, downs]: [Vec<i64>; 3] =
            [column(|count| count.tunnels), column(|count| count.up), column(|count| count.down)];
        let reasons: Vec<&str> = ends.iter().map(|(reason, _)| *reason).collect();
        let ended: Vec<i64> = ends.iter().map(|(_, ended)| *ended as i64).collect();
        let connection = self.connection().await?;
        let statement = "select l7r_count_sessions($1, $2, $3, $4, $5, $6, $7)";
        connection.execute(statement, &[&host.0, &ways, &opened, &ups, &downs, &reasons, &ended]).await?;
        Ok(())
    }

    /// Adds to the counters of strangers turned away, in the order of the columns of `host_counters`.
    pub async fn l7r_count_refused(&self, host: HostId, added: [u64; 5]) -> Result<(), DbError> {
        let [crowd, handshakes, plain, slow, limited] = added.map(|count| count as i64);
        let connection = self.connection().await?;
        let statement = "select l7r_count_refused($1, $2, $3, $4, $5, $6)";
        connection.execute(statement, &[&host.0, &crowd, &handshakes, &plain, &slow, &limited]).await?;
        Ok(())
    }

    /// What is stored about TLS.
    pub async fn l7r_certificates(&self) -> Result<Certificates, DbError> {
        let connection = self.connection().await?;
        let rows = connection.query("select key, value from l7r_ssl()", &[]).await?;
        let value =
            |wanted: &str| rows.iter().find(|row| row.get::<_, &str>(0) == wanted).map(|row| row.get::<_, String>(1));
        Ok(Certificates {
            certificate: value("l7r.ssl.cert"),
            key: value("l7r.ssl.key"),
            authorities: value("l7r.ssl.ca"),
            revoked: value("l7r.ssl.crl"),
        })
    }

    /// Tells administrators what an instance cannot use; `None`: it can use everything.
    pub async fn l7r_problem(&self, instance: InstanceId, problem: Option<&str>) -> Result<(), DbError> {
        let connection = self.connection().await?;
        connection.execute("select l7r_problem($1, $2)", &[&instance.0, &problem]).await?;
        Ok(())
    }
}

/// The first ten columns as `l7r_session` and `l7r_acquire` give them; `None` when there is no session.
fn session_vm(row: &Row) -> Result<Option<SessionVm>, DbError> {
    let state: Option<&str> = row.get(0);
    let Some(state) = state else { return Ok(None) };
    let address: Option<IpAddr> = row.get(3);
    let at = |port: Option<i32>| Some(SocketAddr::new(address?, u16::try_from(port?).ok()?));
    let secret: Option<Vec<u8>> = row.get(6);
    Ok(Some(SessionVm {
        state: word(state)?,
        commanded: row.get(1),
        placed: row.get(2),
        vma: at(row.get(4)),
        x: at(row.get(5)),
        secret: secret.and_then(|bytes| Some(VmSecret::new(bytes.try_into().ok()?))),
        reason: row.get(7),
        aborted: row.get::<_, bool>(8).then(|| AbortCause::of(row.get(9), false)),
    }))
}

/// Pairs as an object; the last value of a name counts.
fn object(pairs: &[(String, String)]) -> serde_json::Value {
    pairs.iter().map(|(name, value)| (name.clone(), serde_json::Value::from(value.as_str()))).collect()
}

/// What `ssl_configs` holds, each as PEM. Never shown: a private key is among it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Certificates {
    /// The chain that routers show.
    pub certificate: Option<String>,
    /// Its private key.
    pub key: Option<String>,
    /// Authorities of client certificates.
    pub authorities: Option<String>,
    /// Client certificates that were revoked.
    pub revoked: Option<String>,
}
