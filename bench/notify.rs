//! How long after the commit call of `vm_start` hkd has committed its claim, beside the physical floor: a bare
//! transaction with one UPDATE and one NOTIFY until a bare listener has it, plus one bare committed UPDATE by that
//! listener. hkd runs in this process, with simulated VMs; both sides speak to the same durable database.
//! Once from the COMMIT of a transaction in which the statements were done, and once (`call`) from the call of statements that
//! commit by themselves, with everything that they do before.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use qvd::{
    db::Listener,
    hkd,
    hypervisor::{Hypervisor, Nothing},
};
use tokio_postgres::{Client, NoTls, Statement};
use tokio_util::sync::CancellationToken;

use crate::{
    claims::{Did, Seen, next},
    report::{Report, Samples, Unit},
    since::Since,
    site::BenchSite,
};

const REST: Duration = Duration::from_millis(20);

pub async fn run(repetitions: usize, mut seen: Seen) -> anyhow::Result<Report> {
    let bench = BenchSite::open("bno", 1, "nothing", &[]).await?;
    let config = bench.site.config()?;
    let stop = CancellationToken::new();
    let nothing: Arc<dyn Hypervisor> = Arc::new(Nothing::with_delays(Default::default(), Default::default()));
    let daemon = tokio::spawn(hkd::run(config, move |_, _, _| Ok(nothing), stop.clone()));
    bench.site.wait_for("hkd did not start", "select state from host_runtimes", "running").await?;
    bench
        .site
        .sql(
            "select osf_create('o'), user_create('u'); select di_create('o', 'x.tar'), vm_create('u', 'v', 'o');
             create table qvd.floor (one int primary key, n bigint); insert into qvd.floor values (1, 0), (2, 0)",
        )
        .await?;

    let mut report = Report { scenario: "notify", repetitions, ..Report::default() };
    for (prefix, commit) in [("", "on"), ("nodurable_", "off")] {
        bench.site.sql(&format!("alter system set synchronous_commit = {commit}")).await?;
        bench.site.sql("select pg_reload_conf()").await?;
        for since in Since::BOTH {
            measure(&bench, &mut seen, repetitions, (prefix, since), &mut report).await?;
        }
    }

    stop.cancel();
    daemon.await??;
    bench.close().await?;
    Ok(report)
}

async fn measure(
    bench: &BenchSite,
    seen: &mut Seen,
    repetitions: usize,
    (prefix, since): (&str, Since),
    report: &mut Report,
) -> anyhow::Result<()> {
    let prefix = format!("{prefix}{}", since.prefix());
    let sender = client(bench).await?;
    let mut floor = Floor::new(bench).await?;
    let start = sender.prepare("select vm_start('u/v')").await?;
    let (mut claims, mut floors) = (Samples::default(), Samples::default());
    let warm_up = repetitions / 10 + 5;
    for round in 0..repetitions + warm_up {
        // Both sides begin from rest: a disk and a processor that were busy a moment ago are faster.
        tokio::time::sleep(REST).await;
        let bare = floor.once(since).await?;
        while seen.try_recv().is_ok() {}
        tokio::time::sleep(REST).await;
        let began = since.run(&sender, &start, &[]).await?;
        let claimed = next(seen, Did::ClaimedStart).await?;
        if round >= warm_up {
            floors.add(bare);
            claims.add(claimed - began);
        }
        next(seen, Did::Running).await?;
        bench.site.wait_vm("u/v", "running").await?;
        sender.simple_query("select vm_stop('u/v')").await?;
        bench.site.wait_vm("u/v", "stopped").await?;
    }
    report.figure(format!("{prefix}floor_p50_us"), floors.us(0.5));
    report.figure(format!("{prefix}floor_p99_us"), floors.us(0.99));
    report.figure(format!("{prefix}ratio_p50"), claims.us(0.5) / floors.us(0.5));
    report.beside_floor(&prefix, Unit::Microseconds, &claims, &floors);
    Ok(())
}

/// The bare side: two connections and nothing else.
struct Floor {
    sender: Client,
    send: Statement,
    claimer: Client,
    claim: Statement,
    heard: tokio::sync::mpsc::UnboundedReceiver<qvd::db::Notification>,
    _listener: Listener,
}

impl Floor {
    async fn new(bench: &BenchSite) -> anyhow::Result<Self> {
        let sender = client(bench).await?;
        let send = sender
            .prepare(
                "with sent as (update qvd.floor set n = n + 1 where one = 1 returning n)
                 select pg_notify('floor', n::text) from sent",
            )
            .await?;
        let claimer = client(bench).await?;
        let claim = claimer.prepare("update qvd.floor set n = n + 1 where one = 2").await?;
        let listen = Listener::connect(&bench.site.connector("postgres")?).await?;
        listen.listener.listen(["floor"]).await?;
        Ok(Self { sender, send, claimer, claim, heard: listen.notifications, _listener: listen.listener })
    }

    async fn once(&mut self, since: Since) -> anyhow::Result<Duration> {
        let (began, finished) = tokio::join!(since.run(&self.sender, &self.send, &[]), async {
            self.heard.recv().await.context("the bare listener was disconnected")?;
            self.claimer.execute(&self.claim, &[]).await?;
            anyhow::Ok(Instant::now())
        });
        Ok(finished? - began?)
    }
}

async fn client(bench: &BenchSite) -> anyhow::Result<Client> {
    let (client, connection) = tokio_postgres::connect(&bench.site.connection_string("postgres"), NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}
