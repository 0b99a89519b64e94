//! A guest that boots: what executes it, what its agent is told and tells, and how it ends.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    process::Command,
    time::{Duration, Instant},
};

use qvd::{
    hypervisor::{Exit, Hypervisor, Memory},
    model::{VmSecret, VmSpec},
    vma::client::{AgentClient, AgentError},
};

use crate::platform::read;

use super::{
    desktop_disk,
    disk::PANIC,
    node::{IMAGE, Node, VM},
};

/// Emulated, on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(50);
const MEMORY_MB: u32 = 512;

/// What of its memory the guest could still use, as far as its kernel has said so.
async fn memory_of(node: &Node) -> Option<u64> {
    // QEMU may be too busy to say anything.
    let (vm, Memory { given, available }) = node.hypervisor.memory().await.pop()?;
    let promised = u64::from(MEMORY_MB) << 20;
    assert!(vm == VM && given == promised && available.is_none_or(|bytes| (32 << 20..given).contains(&bytes)));
    available
}

#[tokio::test]
async fn a_guest_boots_with_what_was_found_to_work_answers_who_knows_its_secret_and_ends_when_its_kernel_panics() {
    let settings = [("vm.kvm.acceleration", "auto"), ("vm.serial.capture", "1"), ("vma.on_action.expire", PANIC)];
    let node = Node::bare(31, &settings).await;
    std::os::unix::fs::symlink(desktop_disk().await, node.image(IMAGE)).unwrap();
    let spec = VmSpec { memory_mb: MEMORY_MB, cpus: Some(2), ..node.spec() };
    let home = node.storage("homes/1-data.qcow2").display().to_string();
    let of_home = |program: &str, words: &[&str]| Command::new(program).args(words).output().unwrap();
    assert!(of_home("qemu-img", &["create", "-q", "-f", "qcow2", &home, "64M"]).status.success());
    // Where the partition table was.
    assert!(of_home("qemu-io", &["-f", "qcow2", "-c", "write -P 7 0 64k", &home]).status.success());
    let began = Instant::now();
    node.hypervisor.start(&spec).await.unwrap();
    let exited = node.hypervisor.exited(VM);
    let words = read(format!("/proc/{}/cmdline", node.status(VM).await.pid));
    assert!(words.contains("\0-smp\x002\0-m\x00512\0"), "what its OSF says: {words}");
    let address = SocketAddr::from((spec.address, 3030));
    let agent = |secret| AgentClient::new(address, secret, Duration::from_secs(2));
    let mut available = BTreeSet::new();
    while let Err(error) = agent(spec.secret.clone()).ping().await {
        available.extend(memory_of(&node).await);
        assert!(began.elapsed() < PATIENCE, "the agent does not answer: {error}; the guest said: {}", node.said(VM));
        tokio::time::sleep(POLL).await;
    }
    println!("measured: start of an emulated guest until its agent answers: {} ms", began.elapsed().as_millis());
    for wrong in [None, Some(VmSecret::new([8; 32]))] {
        let refused = agent(wrong).ping().await;
        assert!(matches!(refused, Err(AgentError::Secret)), "{refused:?}");
    }
    assert!(node.said(VM).contains("the network is set up"), "its console is recorded: {}", node.said(VM));

    while available.len() < 2 {
        available.extend(memory_of(&node).await);
        assert!(began.elapsed() < PATIENCE, "its kernel says more than once what it could still use: {available:?}");
        tokio::time::sleep(POLL).await;
    }

    let user = [("qvd.vm.user.name", "alice"), ("qvd.client.keyboard", "pc105/en")];
    let started = agent(spec.secret.clone()).x_start(&user.map(|(key, value)| (key.into(), value.into()))).await;
    let Err(AgentError::Refused(why)) = started else { panic!("{started:?}") };
    assert!(why.contains("the home disk /dev/vdb is damaged"), "{why}");

    // The hook of this does not come back.
    let _ = agent(spec.secret.clone()).expire("", "").await;
    let exit = tokio::time::timeout(PATIENCE, exited).await.expect("a guest that panicked ends");
    assert_eq!(exit, Exit::Panicked, "{}", node.said(VM));
    node.nothing_is_left().await;
    assert!(node.said(VM).contains("Kernel panic"), "what it said is kept: {}", node.said(VM));
    let whole = of_home("qemu-io", &["-f", "qcow2", "-c", "read -P 7 0 64k", "-c", "read -P 0 64k 1M", &home]);
    assert!(whole.status.success(), "nothing was made in the place of what is damaged: {whole:?}");
}
