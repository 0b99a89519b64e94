//! The certificate that clients are shown, changed while they are connected.

use std::fs;

use rcgen::{CertificateParams, KeyPair};
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
    stage.sql("delete from ssl_configs").await;
}
