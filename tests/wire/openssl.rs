//! What another library makes of the router's TLS: versions and cipher suites old and new, certificates of clients.

use std::{fs, path::Path, process::Stdio};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, IsCa, KeyIdMethod,
    KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use tokio::{io::AsyncWriteExt, process::Command, time::timeout};

use super::stage::{PATIENCE, Stage, calm, rough_alone};

/// Runs `openssl s_client`, asks whether the router is alive, and gives all that was said.
async fn s_client(stage: &Stage, arguments: &[&str]) -> String {
    let mut child = Command::new("openssl")
        .args(["s_client", "-connect", &format!("127.0.0.1:{}", stage.site.port()), "-ign_eof"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    // What is no HTTP behind it ends the connection.
    let mut input = child.stdin.take().unwrap();
    let _ = input.write_all(b"GET /qvd/ping HTTP/1.1\r\n\r\nend\r\n").await;
    let output = timeout(PATIENCE, child.wait_with_output()).await.expect("openssl does not end").unwrap();
    drop(input);
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

fn is_served(said: &str) -> bool {
    said.contains("I am alive!")
}

/// Waits until the router has logged this.
async fn logged(stage: &Stage, text: &str) {
    let found = async {
        while !fs::read_to_string(stage.site.log()).unwrap().contains(text) {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("not in the log: {text}"));
}

#[tokio::test]
async fn modern_versions_and_suites_are_served() {
    let stage = calm().await;
    for arguments in [
        &["-tls1_3"][..],
        &["-tls1_2"],
        &["-tls1_2", "-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305"],
        &["-tls1_3", "-ciphersuites", "TLS_AES_128_GCM_SHA256"],
        &["-tls1_3", "-groups", "P-384"],
        // Whatever name is asked for, and whatever protocol is proposed.
        &["-servername", "my_host"],
        &["-servername", "127.0.0.1"],
        &["-servername", "vdi.example."],
        &["-alpn", "h2,http/1.1"],
        &["-noservername"],
        &["-servername", "other.example"],
    ] {
        let said = s_client(stage, arguments).await;
        assert!(is_served(&said), "{arguments:?}: {said}");
    }
}

#[tokio::test]
async fn a_client_that_knows_only_what_is_not_spoken_is_logged_with_the_cause() {
    let stage = calm().await;
    for (arguments, cause) in [
        (&["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"][..], "the client speaks TLS 1.1 at most"),
        (&["-tls1", "-cipher", "ALL:@SECLEVEL=0"], "the client speaks TLS 1.0 at most"),
        (&["-tls1_2", "-cipher", "AES128-SHA:AES256-GCM-SHA384"], "the client knows only RSA key exchange"),
        (&["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA:ECDHE-ECDSA-AES256-SHA384"], "the client knows only CBC"),
        (&["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"], "fits the key of our certificate"),
        (&["-servername", "desk top"], r#"by a name that no host can have: "desk top""#),
        (&["-servername", "büro..example"], r#"by a name that no host can have: "büro..example""#),
    ] {
        let said = s_client(stage, arguments).await;
        assert!(!is_served(&said), "{said}");
        logged(stage, cause).await;
    }
}

#[tokio::test]
async fn versions_suites_and_an_rsa_certificate_are_taken_over_while_running() {
    let (stage, _alone) = rough_alone().await;
    let key = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let certificate = CertificateParams::new(["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    stage.sql(&format!("select config_ssl('{}', '{}')", certificate.pem(), key.serialize_pem())).await;
    stage.sql("select config_set('l7r.options.SSL_version', 'TLSv1_2:!TLSv1_3')").await;
    stage.sql("select config_set('l7r.options.SSL_cipher_list', 'ECDHE+AESGCM:!AES256:AES128-SHA')").await;
    let changed = async { while is_served(&s_client(stage, &["-tls1_3"]).await) {} };
    timeout(PATIENCE, changed).await.expect("the settings are not taken over");
    logged(stage, "no cipher suite of AES128-SHA is spoken here").await;
    let said = s_client(stage, &["-tls1_2"]).await;
    assert!(is_served(&said) && said.contains("ECDHE-RSA-AES128-GCM-SHA256"), "{said}");
    assert!(!is_served(&s_client(stage, &["-tls1_2", "-cipher", "ECDHE-RSA-AES256-GCM-SHA384"]).await));
    stage
        .sql(
            "select config_ssl_reset(), config_reset('l7r.options.SSL_version'),
             config_reset('l7r.options.SSL_cipher_list')",
        )
        .await;
    let back = async { while !is_served(&s_client(stage, &["-tls1_3"]).await) {} };
    timeout(PATIENCE, back).await.expect("the settings do not come back");
}

#[tokio::test]
async fn a_session_is_resumed() {
    let stage = calm().await;
    let scratch = tempfile::tempdir().unwrap();
    let session = scratch.path().join("session").display().to_string();
    assert!(is_served(&s_client(stage, &["-tls1_3", "-sess_out", &session]).await));
    let said = s_client(stage, &["-tls1_3", "-sess_in", &session]).await;
    assert!(is_served(&said) && said.contains("Reused, TLSv1.3"), "{said}");
}

/// A certificate of a client, below an authority.
fn issued(directory: &Path, name: &str, number: u64, authority: &CertifiedIssuer<'_, KeyPair>) -> [String; 4] {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.serial_number = Some(SerialNumber::from(number));
    let certificate = params.signed_by(&key, authority).unwrap();
    let (cert_file, key_file) = (directory.join(format!("{name}.crt")), directory.join(format!("{name}.key")));
    fs::write(&cert_file, certificate.pem()).unwrap();
    fs::write(&key_file, key.serialize_pem()).unwrap();
    ["-cert".to_owned(), cert_file.display().to_string(), "-key".to_owned(), key_file.display().to_string()]
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

#[tokio::test]
async fn clients_show_certificates_that_are_checked_against_authority_and_revocations() {
    let (stage, _alone) = rough_alone().await;
    let scratch = tempfile::tempdir().unwrap();
    let (ours, theirs) = (authority("ours"), authority("theirs"));
    let good = issued(scratch.path(), "good", 1, &ours);
    let revoked = issued(scratch.path(), "revoked", 2, &ours);
    let foreign = issued(scratch.path(), "foreign", 3, &theirs);
    let list = CertificateRevocationListParams {
        this_update: rcgen::date_time_ymd(2020, 1, 1),
        next_update: rcgen::date_time_ymd(2090, 1, 1),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: vec![RevokedCertParams {
            serial_number: SerialNumber::from(2),
            revocation_time: rcgen::date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        }],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let list = list.signed_by(&ours).unwrap().pem().unwrap();
    let served = async |certificate: &[String]| {
        let arguments: Vec<&str> = certificate.iter().map(String::as_str).collect();
        is_served(&s_client(stage, &arguments).await)
    };
    let until = async |certificate: &[String], wanted: bool| {
        let change = async { while served(certificate).await != wanted {} };
        timeout(PATIENCE, change).await.unwrap_or_else(|_| panic!("never {wanted}: {certificate:?}"));
    };
    let mut old = stage.client().await;

    // With an authority a certificate may be shown, and is checked then.
    stage.sql(&format!("select config_ssl_clients('{}')", ours.pem())).await;
    until(&foreign, false).await;
    assert!(served(&good).await && served(&revoked).await && served(&[]).await);
    stage.sql(&format!("select config_ssl_clients(null, '{list}')")).await;
    until(&revoked, false).await;
    assert!(served(&good).await && served(&[]).await);
    stage.sql("select config_set('l7r.client.cert.require', '1')").await;
    until(&[], false).await;
    assert!(served(&good).await && !served(&foreign).await && !served(&revoked).await);
    logged(stage, "the client shows no certificate, and one is required").await;
    logged(stage, "the certificate of the client is refused").await;

    // Authorities that cannot be used leave nobody in who was not before.
    stage.sql("delete from ssl_configs").await;
    stage.until("select router_problem ~ 'l7r.ssl.ca.*missing' from host_list", "t").await;
    assert!(served(&good).await && !served(&[]).await);
    assert_eq!(old.ask("GET /qvd/ping HTTP/1.1\r\n\r\n").await.status, 200, "who was there is not disturbed");
    stage.sql("select config_reset('l7r.client.cert.require')").await;
    until(&[], true).await;
}
