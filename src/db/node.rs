//! What hkd asks of the database (`sql/functions/50_node.sql`).

use std::{net::IpAddr, time::Duration};

use tokio_postgres::Row;

use crate::model::{
    DiId, Epoch, Expiry, HostId, HostState, InstanceId, OsfId, StorageId, TenantId, UserId, VmCommand, VmId, VmPorts,
    VmSecret, VmSpec, VmState,
};

use super::{Database, DbError, Instance};

/// A node's present life: who it is and under which epoch it may write.
#[derive(Clone, Debug)]
pub struct Life {
    /// The node.
    pub host: HostId,
    /// By which other nodes know it: in the VM network unless that is routed.
    pub address: IpAddr,
    /// Named in every write.
    pub epoch: Epoch,
    /// Its state when it was asked.
    pub state: HostState,
    /// VMs that were on record here and cannot live, since the machine was booted anew.
    pub released: Vec<VmId>,
}

/// Who was the node of a name last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Former {
    /// The node.
    pub host: HostId,
    /// Its name.
    pub name: String,
    /// The boot of its machine.
    pub boot_id: String,
    /// Its machine, if it has an identity.
    pub machine_id: Option<String>,
    /// Its life.
    pub epoch: Epoch,
    /// Advanced by every renewal.
    pub lease: i64,
    /// How long it must be silent before others act; `None`: nobody takes anything over from it.
    pub patience: Option<Duration>,
    /// It neither said that it stops nor was given up.
    pub lives: bool,
    /// VMs that are up according to the record.
    pub vms: i64,
}

/// A VM on record for a node.
#[derive(Clone, Debug)]
pub struct NodeVm {
    /// The VM.
    pub vm: VmId,
    /// Its published state.
    pub state: VmState,
    /// What it is made of; `None` when its OSF has no image for its tag.
    pub spec: Option<VmSpec>,
    /// The tag that chose the image.
    pub tag: String,
}

/// A command that was taken and must now be carried out.
#[derive(Clone, Debug)]
pub struct Claim {
    /// What to do.
    pub command: VmCommand,
    /// With which VM.
    pub vm: NodeVm,
}

/// What a node has to do apart from commands of VMs.
#[derive(Clone, Debug)]
pub struct Duties {
    /// It was told to stop.
    pub stop: bool,
    /// VMs that must be told that they expire.
    pub expiring: Vec<(VmId, Expiry)>,
    /// How long until the next VM expires; `None`: none will.
    pub next: Option<Duration>,
}

/// How a VM that takes long gets on.
#[derive(Clone, Debug)]
pub struct VmProgress {
    /// The VM.
    pub vm: VmId,
    /// What the node does with it.
    pub phase: String,
    /// Since when.
    pub age: Duration,
    /// Until the next step; `None`: there is none.
    pub left: Option<Duration>,
    /// What was tried, so often.
    pub attempts: u32,
    /// What went wrong last.
    pub note: Option<String>,
}

/// How large a node is and how much of it is in use, for the balancer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    /// Memory in MB.
    pub ram: f32,
    /// Processors in bogomips.
    pub cpu: f32,
    /// Memory that programs could still get, in MB.
    pub free_ram: f32,
    /// Share of time in which something had to wait for a processor, from 0 to 1.
    pub cpu_pressure: f32,
}

/// Another node as the database shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The node.
    pub host: HostId,
    /// Its name, and that of its heartbeat's file.
    pub name: String,
    /// Its present life.
    pub epoch: Epoch,
    /// Advanced by every renewal.
    pub lease: i64,
    /// How long it must be silent before others act.
    pub patience: Duration,
}

/// What one look at the database showed.
#[derive(Clone, Debug)]
pub struct Peers {
    /// Stands for the server process and the connection to it; another one after either was replaced.
    pub source: String,
    /// The nodes that are watched.
    pub peers: Vec<Peer>,
}

const NODE_VM: &str = "vm_id, name, tenant_id, user_id, login, osf_id, memory, user_storage_size, di_id, di_path, \
     di_tag, ip, secret, vm_state::text, cpus, agent";

impl Database {
    /// The storage that the node named `name` had before; `None` when it never had one.
    pub async fn node_storage(&self, name: &str) -> Result<Option<StorageId>, DbError> {
        let connection = self.connection().await?;
        let row = connection.query_one("select node_storage($1)::text", &[&name]).await?;
        row.get::<_, Option<String>>(0)
            .map(|id| id.parse().map_err(|_| DbError::Shape(format!("{id} is no storage"))))
            .transpose()
    }

    /// The address of the node named `name`; `None` when there is no such node.
    pub async fn node_address(&self, name: &str) -> Result<Option<IpAddr>, DbError> {
        let connection = self.connection().await?;
        Ok(connection.query_one("select node_address($1)", &[&name]).await?.get(0))
    }

    /// Who was the node named `name` last, and what stands for the server and the connection that said so.
    pub async fn node_former(&self, name: &str) -> Result<(String, Option<Former>), DbError> {
        let connection = self.connection().await?;
        let row = connection
            .query_one(
                "select pg_postmaster_start_time()::text, host, boot_id::text, machine_id, epoch, lease, patience, lives, vms
                 from (select) as always left join node_former($1) on true",
                &[&name],
            )
            .await?;
        let source = connection.source() + row.get::<_, &str>(0);
        let Some(host) = row.get::<_, Option<i32>>(1) else { return Ok((source, None)) };
        let patience: Option<f64> = row.get(6);
        let patience = patience
            .map(Duration::try_from_secs_f64)
            .transpose()
            .map_err(|_| DbError::Shape(format!("the patience of host {host} is negative")))?;
        let former = Former {
            host: HostId(host),
            name: name.to_owned(),
            boot_id: row.get(2),
            machine_id: row.get(3),
            epoch: row.get(4),
            lease: row.get(5),
            patience,
            lives: row.get(7),
            vms: row.get(8),
        };
        Ok((source, Some(former)))
    }

    /// Begins or continues the life of the node named `name`, on a storage that it shares with others: both its signs of
    /// life must stand still for `patience` before they take its VMs over. Without a storage nobody does. Another machine
    /// names whom it saw `dead` that was the node before.
    pub async fn node_start(
        &self,
        name: &str,
        (boot_id, machine_id): (&str, Option<&str>),
        pid: u32,
        shared: Option<(&StorageId, Duration)>,
        dead: Option<&Peer>,
    ) -> Result<Life, DbError> {
        let (storage, patience) =
            (shared.map(|(id, _)| id.as_str()), shared.map(|(_, patience)| patience.as_secs_f64()));
        let connection = self.connection().await?;
        let row = connection
            .query_one(
                "select node, address, node_epoch, state::text, released from node_start($1, $2::text::uuid, $3, $4::text::uuid, $5, $6, $7, $8)",
                &[
                    &name,
                    &boot_id,
                    &(pid as i32),
                    &storage,
                    &patience,
                    &machine_id,
                    &dead.map(|dead| dead.epoch),
                    &dead.map(|dead| dead.lease),
                ],
            )
            .await?;
        let released: Vec<i32> = row.get(4);
        Ok(Life {
            host: HostId(row.get(0)),
            address: row.get(1),
            epoch: row.get(2),
            state: word(row.get(3))?,
            released: released.into_iter().map(VmId).collect(),
        })
    }

    /// Says which program runs the node.
    pub async fn node_program(&self, host: HostId, epoch: Epoch) -> Result<(), DbError> {
        let connection = self.connection().await?;
        let (program, schema) = (env!("CARGO_PKG_VERSION"), super::migrate::newest());
        connection.execute("select node_program($1, $2, $3, $4)", &[&host.0, &epoch, &program, &schema]).await
    }

    /// Publishes the state of the node.
    pub async fn node_state(&self, host: HostId, epoch: Epoch, state: HostState) -> Result<(), DbError> {
        let connection = self.connection().await?;
        let statement = connection.prepare_cached("select node_state($1, $2, $3::text::host_state)").await?;
        connection.execute(&statement, &[&host.0, &epoch, &state.as_str()]).await?;
        Ok(())
    }

    /// Says that the node serves; whether the database had it otherwise.
    pub async fn node_serves(&self, host: HostId, epoch: Epoch) -> Result<bool, DbError> {
        let connection = self.connection().await?;
        let row = connection.query_one("select node_serves($1, $2)", &[&host.0, &epoch]).await?;
        Ok(row.get(0))
    }

    /// Renews the lease; `degraded` says why notifications are not relied upon, `storage` why the storage is not. Says
    /// whether VMs of lost nodes are to be started.
    pub async fn node_lease(
        &self,
        (host, epoch): (HostId, Epoch),
        load: &Load,
        degraded: Option<&str>,
        storage: Option<&str>,
    ) -> Result<bool, DbError> {
        let connection = self.connection().await?;
        let statement = connection.prepare_cached("select node_lease($1, $2, $3, $4, $5, $6, $7, $8)").await?;
        let Load { ram, cpu, free_ram, cpu_pressure } = load;
        let row = connection
            .query_one(&statement, &[&host.0, &epoch, ram, cpu, &degraded, &storage, free_ram, cpu_pressure])
            .await?;
        Ok(row.get(0))
    }

    /// The nodes that this one watches.
    pub async fn node_peers(&self, host: HostId, epoch: Epoch) -> Result<Peers, DbError> {
        let connection = self.connection().await?;
        let statement = connection
            .prepare_cached(
                "select host, name, epoch, lease, patience, pg_postmaster_start_time()::text from node_peers($1, $2)
                 union all select null, null, null, null, null, pg_postmaster_start_time()::text",
            )
            .await?;
        let rows = connection.query(&statement, &[&host.0, &epoch]).await?;
        let mut peers = Peers { source: connection.source(), peers: Vec::with_capacity(rows.len()) };
        for row in &rows {
            match row.get::<_, Option<i32>>(0) {
                Some(host) => peers.peers.push(Peer {
                    host: HostId(host),
                    name: row.get(1),
                    epoch: row.get(2),
                    lease: row.get(3),
                    patience: Duration::try_from_secs_f64(row.get(4))
                        .map_err(|_| DbError::Shape(format!("the patience of host {host} is negative")))?,
                }),
                None => peers.source.push_str(row.get(5)),
            }
        }
        Ok(peers)
    }

    /// Takes the VMs of a silent node from it if it is still as it was seen. Returns those that were up; `None`: it gave a
    /// sign meanwhile, or another node was quicker.
    pub async fn node_take_over(
        &self,
        (host, epoch): (HostId, Epoch),
        silent: &Peer,
    ) -> Result<Option<Vec<VmId>>, DbError> {
        let connection = self.connection().await?;
        let row = connection
            .query_one(
                "select node_take_over($1, $2, $3, $4, $5)",
                &[&host.0, &epoch, &silent.host.0, &silent.epoch, &silent.lease],
            )
            .await?;
        Ok(row.get::<_, Option<Vec<i32>>>(0).map(|vms| vms.into_iter().map(VmId).collect()))
    }

    /// Starts VMs whose node was lost and that are to run elsewhere. Returns how many.
    pub async fn vms_restart(&self) -> Result<i32, DbError> {
        let connection = self.connection().await?;
        let statement = connection.prepare_cached("select vms_restart()").await?;
        Ok(connection.query_one(&statement, &[]).await?.get(0))
    }

    /// The routers of a node that have not ended.
    pub async fn node_routers(&self, host: HostId, epoch: Epoch) -> Result<Vec<Instance>, DbError> {
        let connection = self.connection().await?;
        let statement = connection
            .prepare_cached("select instance, boot_id::text, pid, pid_start from node_routers($1, $2)")
            .await?;
        Ok(connection.query(&statement, &[&host.0, &epoch]).await?.iter().map(Instance::read).collect())
    }

    /// Ends routers of a node that are proven gone, with all their sessions. Returns the number of sessions.
    pub async fn node_routers_gone(&self, host: HostId, epoch: Epoch, gone: &[InstanceId]) -> Result<i32, DbError> {
        let ids: Vec<i64> = gone.iter().map(|instance| instance.0).collect();
        let connection = self.connection().await?;
        Ok(connection.query_one("select node_routers_gone($1, $2, $3)", &[&host.0, &epoch, &ids]).await?.get(0))
    }

    /// Whether what this host wrote in this epoch binds nobody any more.
    pub async fn epoch_is_over(&self, host: HostId, epoch: Epoch) -> Result<bool, DbError> {
        let connection = self.connection().await?;
        Ok(connection.query_one("select epoch_is_over($1, $2)", &[&host.0, &epoch]).await?.get(0))
    }

    /// Takes every command that waits for the node. VMs that start will have their agent and their desktop on `ports`.
    pub async fn node_claim(&self, host: HostId, epoch: Epoch, ports: VmPorts) -> Result<Vec<Claim>, DbError> {
        let connection = self.connection().await?;
        let statement = connection
            .prepare_cached(&format!("select {NODE_VM}, command::text from node_claim($1, $2, $3, $4)"))
            .await?;
        let (vma, x) = (i32::from(ports.vma), i32::from(ports.x));
        let rows = connection.query(&statement, &[&host.0, &epoch, &vma, &x]).await?;
        rows.iter().map(|row| Ok(Claim { command: word(row.get(16))?, vm: node_vm(row)? })).collect()
    }

    /// The VMs that are on record for the node and not stopped.
    pub async fn node_vms(&self, host: HostId, epoch: Epoch) -> Result<Vec<NodeVm>, DbError> {
        let connection = self.connection().await?;
        let rows = connection.query(&format!("select {NODE_VM} from node_vms($1, $2)"), &[&host.0, &epoch]).await?;
        rows.iter().map(node_vm).collect()
    }

    /// What the node has to do now; VMs are told again that they expire after `remind`.
    pub async fn node_duties(&self, host: HostId, epoch: Epoch, remind: Duration) -> Result<Duties, DbError> {
        let connection = self.connection().await?;
        let statement = connection
            .prepare_cached(
                "select command::text, coalesce(vms, '{}'), coalesce(softs, '{}'), coalesce(hards, '{}'), next_in
                 from node_duties($1, $2, $3)",
            )
            .await?;
        let row = connection.query_one(&statement, &[&host.0, &epoch, &remind.as_secs_f64()]).await?;
        let (vms, softs, hards): (Vec<i32>, Vec<String>, Vec<String>) = (row.get(1), row.get(2), row.get(3));
        let expiries = softs.into_iter().zip(hards).map(|(soft, hard)| Expiry { soft, hard });
        Ok(Duties {
            stop: row.get::<_, Option<&str>>(0) == Some("stop"),
            expiring: vms.into_iter().map(VmId).zip(expiries).collect(),
            next: row.get::<_, Option<f64>>(4).and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
        })
    }

    /// Says of all VMs of the node that take long how they get on.
    pub async fn node_progress(&self, host: HostId, epoch: Epoch, vms: &[VmProgress]) -> Result<(), DbError> {
        let connection = self.connection().await?;
        let statement = connection.prepare_cached("select node_progress($1, $2, $3, $4, $5, $6, $7, $8)").await?;
        let ids: Vec<i32> = vms.iter().map(|vm| vm.vm.0).collect();
        let phases: Vec<&str> = vms.iter().map(|vm| vm.phase.as_str()).collect();
        let ages: Vec<f64> = vms.iter().map(|vm| vm.age.as_secs_f64()).collect();
        let lefts: Vec<Option<f64>> = vms.iter().map(|vm| vm.left.map(|left| left.as_secs_f64())).collect();
        let tries: Vec<i32> = vms.iter().map(|vm| i32::try_from(vm.attempts).unwrap_or(i32::MAX)).collect();
        let notes: Vec<Option<&str>> = vms.iter().map(|vm| vm.note.as_deref()).collect();
        connection.execute(&statement, &[&host.0, &epoch, &ids, &phases, &ages, &lefts, &tries, &notes]).await?;
        Ok(())
    }

    /// The agent of a VM knows of this expiration.
    pub async fn node_vm_told(&self, host: HostId, epoch: Epoch, vm: VmId, told: &Expiry) -> Result<(), DbError> {
        let connection = self.connection().await?;
        let statement = connection.prepare_cached("select node_vm_told($1, $2, $3, $4)").await?;
        connection.execute(&statement, &[&host.0, &epoch, &vm.0, &told.soft]).await?;
        Ok(())
    }

    /// The node obeys the order to stop: takes nothing new, and ends the sessions of its routers; with `vms` also its VMs.
    /// Returns how many of the sessions are left.
    pub async fn node_stopping(&self, host: HostId, epoch: Epoch, vms: bool) -> Result<i32, DbError> {
        let connection = self.connection().await?;
        Ok(connection.query_one("select node_stopping($1, $2, $3)", &[&host.0, &epoch, &vms]).await?.get(0))
    }

    /// Publishes the state of a VM if it is still in one of the states `expected`. Says whether it was.
    pub async fn node_vm_state(
        &self,
        (host, epoch): (HostId, Epoch),
        vm: VmId,
        expected: &[VmState],
        becomes: VmState,
        reason: Option<&str>,
    ) -> Result<bool, DbError> {
        let expected: Vec<&str> = expected.iter().map(|state| state.as_str()).collect();
        let connection = self.connection().await?;
        let statement = connection
            .prepare_cached("select node_vm_state($1, $2, $3, $4::text[]::vm_state[], $5::text::vm_state, $6)")
            .await?;
        let row =
            connection.query_one(&statement, &[&host.0, &epoch, &vm.0, &expected, &becomes.as_str(), &reason]).await?;
        Ok(row.get(0))
    }

    /// Puts a VM that lives on the node, with this secret and image, on record there if it is assigned nowhere. Returns its state on
    /// record; `None`: it is not this node's.
    pub async fn node_adopt(
        &self,
        (host, epoch): (HostId, Epoch),
        vm: VmId,
        ports: VmPorts,
        secret: Option<&VmSecret>,
        image: Option<DiId>,
    ) -> Result<Option<VmState>, DbError> {
        let (vma, x) = (i32::from(ports.vma), i32::from(ports.x));
        let connection = self.connection().await?;
        let row = connection
            .query_one(
                "select node_adopt($1, $2, $3, $4, $5, decode($6, 'hex'), $7)::text",
                &[&host.0, &epoch, &vm.0, &vma, &x, &secret.map(VmSecret::to_hex), &image.map(|image| image.0)],
            )
            .await?;
        row.get::<_, Option<&str>>(0).map(word).transpose()
    }

    /// Beats for the cluster if the last beat is older than `age`. Says whether this was the one.
    pub async fn beat_try(&self, age: Duration) -> Result<bool, DbError> {
        let connection = self.connection().await?;
        let statement = connection.prepare_cached("select beat_try($1 * interval '1 second')").await?;
        Ok(connection.query_one(&statement, &[&age.as_secs_f64()]).await?.get(0))
    }

    /// Deletes some of what has been kept long enough (`retention.*`). Returns how many rows went; 0: nothing is left, or
    /// another node is at it.
    pub async fn retention_apply(&self) -> Result<i64, DbError> {
        let connection = self.connection().await?;
        Ok(connection.query_one("select retention_apply()", &[]).await?.get(0))
    }

    /// What the database knows of the node that somebody who looks at it wants to see, as an object.
    pub async fn node_status(&self, host: HostId) -> Result<serde_json::Value, DbError> {
        let connection = self.connection().await?;
        Ok(connection.query_one("select node_status($1)", &[&host.0]).await?.get(0))
    }

    /// Notifies the node itself, to learn whether its own listener hears.
    pub async fn echo(&self, host: HostId) -> Result<(), DbError> {
        let connection = self.connection().await?;
        let statement = connection.prepare_cached("select wake('qvd_host_' || $1::int, 'echo', $1)").await?;
        connection.execute(&statement, &[&host.0]).await?;
        Ok(())
    }
}

fn node_vm(row: &Row) -> Result<NodeVm, DbError> {
    let vm = VmId(row.get(0));
    let shape = |what: &str| DbError::Shape(format!("VM {vm}: {what}"));
    let di: Option<i32> = row.get(8);
    let spec = match di {
        None => None,
        Some(di) => {
            let secret: Option<Vec<u8>> = row.get(12);
            let secret =
                secret.map(<[u8; 32]>::try_from).transpose().map_err(|_| shape("its secret is not 32 bytes"))?;
            Some(VmSpec {
                vm,
                name: row.get(1),
                tenant: TenantId(row.get(2)),
                user: UserId(row.get(3)),
                login: row.get(4),
                osf: OsfId(row.get(5)),
                memory_mb: u32::try_from(row.get::<_, i32>(6)).map_err(|_| shape("its memory is negative"))?,
                user_storage_mb: u32::try_from(row.get::<_, i32>(7)).map_err(|_| shape("its home is negative"))?,
                cpus: row.get::<_, Option<i32>>(14).and_then(|cpus| u32::try_from(cpus).ok()),
                di: DiId(di),
                di_path: row.get(9),
                agent: word(row.get(15))?,
                address: row.get(11),
                secret: secret.map(VmSecret::new),
            })
        }
    };
    Ok(NodeVm { vm, state: word(row.get(13))?, spec, tag: row.get(10) })
}

/// A word of the database as the type that stands for it.
pub(super) fn word<T: std::str::FromStr<Err = crate::model::UnknownWord>>(text: &str) -> Result<T, DbError> {
    text.parse().map_err(|error: crate::model::UnknownWord| DbError::Shape(error.to_string()))
}
