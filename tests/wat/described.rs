//! The description of the API held against what answers: by schemathesis, which asks for everything that is promised and for what is
//! not, and address by address.

use std::{collections::BTreeMap, path::Path, time::Duration};

use serde_json::{Value, json};
use tokio::process::Command;

use super::stage::{PASSWORD, Wat, administrator, authorization};
use crate::cluster::database::Db;

/// For all requests together, which are always the same.
const LIMIT: Duration = Duration::from_secs(300);
const METHODS: [&str; 5] = ["GET", "POST", "PUT", "PATCH", "DELETE"];

/// A disk that is full is described like everything else; and it is no acceptance when a version is looked at before what is said.
const SETTINGS: &str = r#"
hooks = "pieces.py"

[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", 507]

[checks.negative_data_rejection]
expected-statuses = [400, 401, 403, 404, 405, 406, 409, 412, 415, 422, 428, 429, "5xx"]
"#;
/// How pieces of files are sent: as they are.
const PIECES: &str = r#"
import schemathesis

schemathesis.serializer.alias("application/offset+octet-stream", "application/octet-stream")
"#;

/// Whoever asks at random may find himself, and must not change his own password: this one stays.
const ASKS: &str = "asks";

#[tokio::test]
async fn schemathesis_finds_nothing_that_is_not_as_it_is_described() {
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/schemathesis/bin/schemathesis");
    assert!(installed.exists(), "{} is missing; run `make schemathesis`", installed.display());
    let db = Db::with_vms(3).await;
    db.sql(
        r#"select tenant_create('school'), object_create('property', '{"key": "room", "objects": ["vm", "user"]}');
           select object_create('role', '{"name": "asks", "tenant": "*", "roles": ["Root"],
               "acls": {"delete": ["administrator.update.password.", "administrator.delete.", "administrator.update.assign-role.",
                   "role.update.assign-role.", "role.update.assign-acl.", "role.delete."]}}')"#,
    )
    .await;
    administrator(&db, ASKS, "*", "asks").await;
    let staging = tempfile::tempdir().unwrap();
    let wat = Wat::start_with(&db, &["--staging", staging.path().to_str().unwrap()]).await;
    let directory = tempfile::tempdir().unwrap();
    let header = authorization(ASKS, PASSWORD);
    std::fs::write(directory.path().join("schemathesis.toml"), SETTINGS).unwrap();
    std::fs::write(directory.path().join("pieces.py"), PIECES).unwrap();
    let run = Command::new(&installed)
        .args(["run", &format!("http://{}/api/v1/openapi.json", wat.address())])
        .args(["--header", header.trim()])
        // It has no end.
        .args(["--exclude-path", "/api/v1/changes"])
        // Who may ask is for the tests of logins. What will do is for the database to say, and not for a schema.
        .args(["--exclude-checks", "ignored_auth,positive_data_acceptance"])
        .args(["--seed", "1", "--max-examples", "8", "--no-shrink", "--continue-on-failure", "--no-color"])
        .args(["--generation-database", "none", "--warnings", "off"])
        .args(["--phases", "examples,coverage,fuzzing"])
        .current_dir(directory.path())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .kill_on_drop(true)
        .output();
    let run = tokio::time::timeout(LIMIT, run).await.expect("it does not end").unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{said}\n{}", String::from_utf8_lossy(&run.stderr));
    assert!(said.contains("passed"), "{said}");
}

#[tokio::test]
async fn each_address_does_what_is_described_and_nothing_else() {
    let db = Db::with_vms(1).await;
    administrator(&db, "root", "*", "Root").await;
    let wat = Wat::start(&db).await;
    let description = wat.get("root", "/api/v1/openapi.json").await.json();
    let mut names = std::collections::BTreeSet::new();
    for (path, operations) in description["paths"].as_object().unwrap() {
        let operations: BTreeMap<String, &Value> =
            operations.as_object().unwrap().iter().map(|(method, said)| (method.to_uppercase(), said)).collect();
        // Nothing has this number, so that nothing is done.
        let address = path.replace("{id}", "2147483647").replace("{key}", "nothing.here").replace("{tag}", "none");
        for (method, said) in &operations {
            assert!(names.insert(said["operationId"].as_str().unwrap().to_owned()), "{said}");
            if path == "/api/v1/changes" {
                continue;
            }
            let body = said.get("requestBody").map(|_| json!({}));
            let answer = wat.api("root", method, &address, "", body.as_ref()).await;
            let unknown = answer.status == 404 && answer.body.contains("no such address");
            // Without a staging directory nothing is brought there.
            let fine = answer.status < 500 || path.starts_with("/api/v1/staging");
            assert!(answer.status != 405 && fine && !unknown, "{method} {path}: {answer:?}");
        }
        for method in METHODS.into_iter().filter(|method| !operations.contains_key(*method)) {
            let answer = wat.api("root", method, &address, "", None).await;
            let allowed = answer.header("Allow").unwrap_or_default();
            let allowed: Vec<_> = allowed.split(',').map(str::trim).filter(|method| METHODS.contains(method)).collect();
            assert!(answer.status == 405 && !allowed.is_empty(), "{method} {path}: {answer:?}");
            assert!(allowed.iter().all(|method| operations.contains_key(*method)), "{method} {path}: {answer:?}");
            assert_eq!(allowed.len(), operations.keys().filter(|known| *known != "HEAD").count(), "{path}");
            assert_eq!(answer.header("Content-Type"), Some("application/problem+json"), "{method} {path}");
        }
    }
    for known in
        ["vm_start", "user_create", "di_tag", "upload_bring", "download_create", "host_release", "staging_list"]
    {
        assert!(names.contains(known), "{known}: {names:?}");
    }
}

#[tokio::test]
async fn fields_are_described_as_the_database_has_them() {
    let db = Db::with_vms(1).await;
    administrator(&db, "root", "*", "Root").await;
    let wat = Wat::start(&db).await;
    let schemas = wat.get("root", "/api/v1/openapi.json").await.json()["components"]["schemas"].clone();
    let vm = &schemas["vm"]["properties"];
    assert_eq!(vm["id"], json!({ "type": ["integer", "null"] }));
    assert!(vm["state"]["enum"].as_array().unwrap().contains(&json!("running")), "{vm}");
    assert_eq!(vm["blocked"], json!({ "type": ["boolean", "null"] }));
    let new = &schemas["new_osf"];
    assert_eq!((&new["required"], &new["properties"]["memory"]["type"][0]), (&json!(["name"]), &json!("integer")));
    assert!(schemas["changed_user"]["properties"]["language"]["enum"].is_array(), "{}", schemas["changed_user"]);
    for (body, problem) in [
        (json!({ "name": "bob" }), "a new user needs password"),
        (json!({ "name": ["bob"], "password": "pw" }), "name of a user is a text"),
        (json!({ "name": "bob", "password": "pw", "language": "eo" }), "language of a user is one of"),
        (json!({ "name": "bob", "password": "pw", "shoes": "44" }), "has no field shoes"),
    ] {
        let refused = wat.api("root", "POST", "/api/v1/user", "", Some(&body)).await;
        let detail = refused.json()["detail"].as_str().unwrap().to_owned();
        assert!(refused.status == 422 && detail.contains(problem), "{detail}");
    }
}

#[tokio::test]
async fn whoever_refuses_refuses_as_programs_expect_it() {
    let db = Db::with_vms(1).await;
    administrator(&db, "root", "*", "Root").await;
    let wat = Wat::start_configured(&db, &[], "l7r.auth.failures.user = 1\n").await;
    let problem = async |method: &str, path: &str, headers: &str| {
        let answer = wat.ask(method, path, headers, "").await;
        assert_eq!(answer.header("Content-Type"), Some("application/problem+json"), "{path}: {answer:?}");
        assert_eq!(answer.json()["status"], answer.status, "{answer:?}");
        answer
    };
    let root = authorization("root", PASSWORD);
    let elsewhere = format!("{root}Sec-Fetch-Site: cross-site\r\n");
    assert_eq!(problem("POST", "/api/v1/user", &elsewhere).await.status, 403);
    assert_eq!(problem("PUT", "/api/v1/user", &root).await.status, 405);
    assert_eq!(problem("GET", "/api/v1/nothing", &root).await.status, 404);
    let unknown = problem("GET", "/api/v1/user", "").await;
    assert!(unknown.status == 401 && unknown.header("WWW-Authenticate").is_some(), "{unknown:?}");
    let wrong = authorization("eve", "wrong");
    assert_eq!(problem("GET", "/api/v1/user", &wrong).await.status, 401);
    let early = problem("GET", "/api/v1/user", &wrong).await;
    assert!(early.status == 429 && early.header("Retry-After").is_some(), "{early:?}");
    assert_eq!(problem("POST", "/api/v1/staging", &root).await.status, 400, "an upload without a length");
    let page = wat.ask("GET", "/vm", "", "").await;
    assert!(page.status == 401 && page.body.starts_with("Log in"), "people read sentences: {page:?}");
}
