//! The certificate that clients are shown, changed while they are connected.

use std::fs;

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::stage::{PATIENCE, Stage, rough_alone};

/// A certificate with its key: PEM, PEM, DER.
pub fn made() -> (String, String, Vec<u8>) {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    (certificate.pem(), key.serialize_pem(), certificate.der().to_vec())
}

/// Waits until a new connection is shown this certificate.
async fn shown(stage: &Stage, wanted: &[u8]) {
    let change = async { while stage.client().await.certificate() != wanted {} };
    tokio::time::timeout(PATIENCE, change).await.expect("the new certificate is not used");
}

#[tokio::test]
async fn a_new_certificate_serves_new_connections_and_a_broken_one_leaves_the_old() {
    let (stage, _alone) = rough_alone().await;
    let mut desktop = stage.running().await;
    let mut tunnel = desktop.connected().await;
    let (certificate, key, der) = made();
    assert_ne!(tunnel.client.certificate(), der);
    stage.sql(&format!("select config_ssl('{certificate}', '{key}')")).await;
    shown(stage, &der).await;

    let (other, other_key, _) = made();
    let complaints = || fs::read_to_string(stage.site.log()).unwrap().matches("the old one stays").count();
    for broken in [
        // The key of another certificate, and what only looks like PEM.
        format!("select config_ssl('{certificate}', '{other_key}')"),
        "update ssl_configs set value = '-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----' \
         where key = 'l7r.ssl.cert'"
            .to_owned(),
    ] {
        let before = complaints();
        stage.sql(&broken).await;
        let noticed = async {
            while complaints() == before {
                assert_eq!(stage.client().await.certificate(), der);
            }
        };
        tokio::time::timeout(PATIENCE, noticed).await.expect("nobody complained");
        assert_eq!(stage.client().await.certificate(), der);
    }
    assert!(stage.site.sql(&format!("select config_ssl('hello', '{other_key}')")).await.is_err());

    stage.sql(&format!("select config_ssl('{other}', '{other_key}')")).await;
    tunnel.client.send("still here").await;
    let mut heard = [0; 10];
    tunnel.nx.read_exact(&mut heard).await.unwrap();
    tunnel.nx.write_all(b"yes").await.unwrap();
    assert_eq!(tunnel.client.read(3).await, b"yes");
    // Nothing is stored any more, so the node's own comes back.
    let own = CertificateDer::from_pem_file(stage.site.certificate()).unwrap();
    stage.sql("delete from ssl_configs").await;
    shown(stage, &own).await;
}

#[tokio::test]
async fn the_administrator_sees_what_a_router_cannot_use_until_it_can() {
    let (stage, _alone) = rough_alone().await;
    let problem = "select router_problem from host_list";
    stage.until(problem, "").await;
    stage.sql("insert into ssl_configs values ('l7r.ssl.cert', 'hello')").await;
    let said = "l7r.ssl.key cannot be used: it is missing, while l7r.ssl.cert is there; the old one stays";
    stage.until(problem, said).await;
    let logged = "select count(*) from log where action = 'refuse' and arguments ->> 'problem' ~ 'key.*missing'";
    assert_eq!(stage.sql(logged).await, "1");
    stage.sql("delete from ssl_configs").await;
    stage.until(problem, "").await;
}

#[tokio::test]
async fn qvd_config_ssl_stores_what_can_be_used_and_nothing_else() {
    let (stage, _alone) = rough_alone().await;
    let scratch = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = scratch.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (certificate, key, der) = made();
    let (_, other_key, _) = made();
    let (cert, key, other) = (file("cert.pem", &certificate), file("key.pem", &key), file("other.pem", &other_key));
    let run = async |arguments: &[&str]| {
        let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_qvd"))
            .args(["config", "ssl", "--database", &stage.site.connection_string("qvd_admin")])
            .args(arguments)
            .output()
            .await
            .unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    let stored = "select count(*) from ssl_configs";
    for (arguments, why) in [
        (vec!["--cert", &cert, "--key", &other], "does not belong"),
        (vec!["--cert", &key, "--key", &key], "no certificate"),
        (vec!["--cert", &cert, "--key", &key, "--ca", &other], "other.pem cannot be used"),
        (vec!["--cert", &cert], "--key"),
        (vec![], "required"),
    ] {
        let (done, said) = run(&arguments).await;
        assert!(!done && said.contains(why), "{arguments:?}: {said}");
        assert_eq!(stage.sql(stored).await, "0");
    }
    let (done, said) = run(&["--cert", &cert, "--key", &key]).await;
    assert!(done, "{said}");
    shown(stage, &der).await;
    let own = CertificateDer::from_pem_file(stage.site.certificate()).unwrap();
    assert!(run(&["--reset"]).await.0);
    shown(stage, &own).await;
}
