//! `POST /api/v1/import` and `GET /api/v1/export`: all of a file or nothing of it.

use repoint::model::name::DeploymentRef;
use repoint::model::revision::Digest;
use repoint::store::{ApiKey, Page};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::plane::{Answer, Plane};

/// A file with a project that has a deployment in two environments, one of its own.
const FILE: &str = r#"{"kind":"pointer","project":"support","environment":"eu","ref":"bbbbbbbb"}
{"kind":"project","name":"support"}
{"kind":"environment","project":"support","name":"eu","hosts":["eu.example.com","*.eu.example.com"],"max_replicas":4}
{"kind":"deployment","project":"support","ref":"bbbbbbbb","source":{"kind":"endpoints","endpoints":["http://127.0.0.1:9"]},"message":"first"}

{"kind":"pointer","project":"support","environment":"production","ref":"bbbbbbbb"}
{"kind":"environment","project":"support","name":"production","locked":true,"locked_reason":"freeze"}
"#;

async fn import(plane: &Plane, file: &str) -> Answer {
    let headers = [("x-api-key", plane.key.as_str()), ("content-type", "application/x-ndjson")];
    let mut answer = plane.send_with("POST", "import?wait_ms=0", &headers, Some(file.as_bytes().to_vec())).await;
    if let Value::String(lines) = &answer.body {
        answer.body = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
    }
    answer
}

/// What an import came to.
async fn imported(plane: &Plane, file: &str) -> Value {
    import(plane, file).await.ok().body["imported"].clone()
}

/// The lines that refuse a file: number, code and message of each.
async fn refused(plane: &Plane, file: &str) -> Vec<(u64, String, String)> {
    let before = plane.everything().await;
    let refused = import(plane, file).await.refused(400, "import_invalid");
    assert_eq!(plane.everything().await, before, "nothing is half imported");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let errors = refused.body["error"]["details"]["errors"].as_array().unwrap();
    errors
        .iter()
        .map(|error| (error["line"].as_u64().unwrap(), text(&error["code"]), text(&error["message"])))
        .collect()
}

async fn export(plane: &Plane) -> String {
    match plane.get("export").await.ok().body {
        Value::String(lines) => lines,
        // One line is one JSON value.
        one => format!("{one}\n"),
    }
}

/// A project by its name, as the API shows it.
async fn project(plane: &Plane, name: &str) -> Value {
    plane.get(&format!("projects?name={name}")).await.ok().body["items"][0].clone()
}

async fn environment(plane: &Plane, project: &str, name: &str) -> Value {
    let project = self::project(plane, project).await;
    let environments = project["environments"].as_array().unwrap();
    let id = environments.iter().find(|environment| environment["name"] == name).unwrap()["id"].as_str().unwrap();
    plane.get(&format!("environments/{id}")).await.ok().body
}

#[tokio::test]
async fn a_file_becomes_one_change_with_everything_it_says() {
    let plane = Plane::start().await;
    let before = plane.store.head().revision;
    let done = imported(&plane, FILE).await;
    assert_eq!((&done["changed"], &done["revision"]), (&json!(true), &json!(before.next())));
    assert_eq!(done["environments"], json!({ "created": 4, "changed": 0, "unchanged": 0 }), "with the default ones");
    assert_eq!(done["pointers"]["created"], 2);

    let eu = environment(&plane, "support", "eu").await;
    assert_eq!(eu["hosts"], json!(["support-eu.localhost", "eu.example.com", "*.eu.example.com"]));
    assert_eq!((&eu["max_replicas"], &eu["current_ref"]), (&json!(4), &json!("bbbbbbbb")));
    assert_eq!((&eu["pools"][0]["state"], &eu["pools"][0]["ready"]), (&json!("running"), &json!(1)), "trusted at once");
    let production = environment(&plane, "support", "production").await;
    assert_eq!((&production["locked"], &production["current_ref"]), (&json!(true), &json!("bbbbbbbb")));
    let history = plane.history(production["id"].as_str().unwrap()).await;
    let row = &history[0];
    assert_eq!((&row["kind"], &row["sequence"], &row["actor"]), (&json!("promote"), &json!(1), &json!("admin")));
    assert_eq!((&row["reason"], &row["revision"]), (&json!("import"), &done["revision"]));
    assert_eq!(environment(&plane, "support", "staging").await["current_ref"], json!(null));
}

#[tokio::test]
async fn the_same_file_again_changes_nothing_and_says_so() {
    let plane = Plane::start().await;
    imported(&plane, FILE).await;
    let before = plane.everything().await;
    let again = imported(&plane, FILE).await;
    assert_eq!((&again["changed"], &again["transaction_ms"]), (&json!(false), &json!(0)));
    assert_eq!(again["revision"], json!(plane.store.head().revision));
    for (noun, unchanged) in [("projects", 1), ("deployments", 1), ("environments", 2), ("pointers", 2)] {
        assert_eq!(again[noun], json!({ "created": 0, "changed": 0, "unchanged": unchanged }), "{noun}");
    }
    assert_eq!(plane.everything().await, before);
}

#[tokio::test]
async fn an_export_imported_elsewhere_is_exported_alike() {
    let (one, two) = (Plane::start().await, Plane::start().await);
    imported(&one, FILE).await;
    let other = one.project("other").await;
    let settings = json!({ "min_replicas": 2, "policy": { "pins": "off", "deployment_hosts": "open" } });
    one.put(&format!("environments/{}", other.preview), settings).await.ok();
    one.serve_fresh(&other, &other.preview).await;
    let lines = export(&one).await;
    assert_eq!(lines.lines().count(), 2 + 2 + 7 + 3, "{lines}");
    imported(&two, &lines).await;
    assert_eq!(export(&two).await, lines);
    let before = one.everything().await;
    assert_eq!(imported(&one, &lines).await["changed"], false, "its own export is nothing new");
    assert_eq!(one.everything().await, before);
}

#[tokio::test]
async fn pointers_at_bundles_are_left_out_and_said() {
    let (one, two) = (Plane::start().await, Plane::start().await);
    let project = one.project("support").await;
    let bundle = one.bundle_deployment(&project, "5s").await;
    one.serve(&bundle, &project.staging).await;
    let lines = export(&one).await;
    let skipped: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let skipped: Vec<&Value> = skipped.iter().filter(|line| line["kind"] == "skipped").collect();
    assert_eq!((skipped.len(), &skipped[0]["environment"]), (1, &json!("staging")));
    imported(&two, &lines).await;
    assert_eq!(environment(&two, "support", "staging").await["current_ref"], json!(null));
}

#[tokio::test]
async fn a_pointer_that_differs_is_a_move_like_every_other() {
    let plane = Plane::start().await;
    imported(&plane, FILE).await;
    let next = r#"{"kind":"deployment","project":"support","ref":"cccccccc","source":{"kind":"endpoints","endpoints":["http://127.0.0.1:7"]}}
{"kind":"pointer","project":"support","environment":"eu","ref":"cccccccc"}
"#;
    let before = plane.store.head().revision;
    let done = imported(&plane, next).await;
    assert_eq!(done["pointers"], json!({ "created": 0, "changed": 1, "unchanged": 0 }));
    assert_eq!((&done["revision"], &done["environments"]["changed"]), (&json!(before.next()), &json!(0)));
    let eu = environment(&plane, "support", "eu").await;
    assert_eq!(eu["current_ref"], "cccccccc");
    assert_eq!(eu["hosts"].as_array().unwrap().len(), 3, "what the file leaves out stays");
    let id = eu["id"].as_str().unwrap();
    let rows: Vec<_> = plane.history(id).await.iter().map(|row| row["to_ref"].as_str().unwrap().to_owned()).collect();
    assert_eq!(rows, ["cccccccc", "bbbbbbbb"]);
    plane.rollback(id, json!({})).await.ok();
    assert_eq!(environment(&plane, "support", "eu").await["current_ref"], "bbbbbbbb", "it is on the stack");
}

#[tokio::test]
async fn a_move_supersedes_one_that_waits() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let waiting = plane.deployment(&project).await;
    let waits = plane.promote(&waiting, &project.staging, json!({ "wait_ms": 0 })).await.ok();
    let number = waits.body["move"]["id"].as_u64().unwrap();
    imported(
        &plane,
        &FILE
            .replace("production", "staging")
            .replace("\"locked\":true,\"locked_reason\":\"freeze\"", "\"locked\":false"),
    )
    .await;
    assert_eq!(plane.get(&format!("moves/{number}")).await.ok().body["move"]["state"], "superseded");
    assert_eq!(environment(&plane, "support", "staging").await["current_ref"], "bbbbbbbb");
}

#[tokio::test]
async fn every_line_that_cannot_be_carried_out_is_told_and_nothing_is_imported() {
    let plane = Plane::start().await;
    let there = plane.project("there").await;
    plane.put(&format!("environments/{}", there.staging), json!({ "hosts": ["taken.example.com"] })).await.ok();
    let file = r#"{"kind":"project","name":"support"}
{"kind":"environment","project":"support","name":"eu","hosts":["one.example.com"]}
{"kind":"environment","project":"support","name":"us","hosts":["one.example.com"]}
{"kind":"environment","project":"support","name":"jp","hosts":["taken.example.com"]}
{"kind":"environment","project":"nobody","name":"eu"}
{"kind":"environment","project":"support","name":"kr","min_replicas":3,"max_replicas":2}
{"kind":"environment","project":"support","name":"eu"}
{"kind":"deployment","project":"support","ref":"bbbbbbbb","source":{"kind":"endpoints","endpoints":["http://169.254.169.254"]}}
{"kind":"deployment","project":"support","ref":"cccccccc","source":{"kind":"bundle","digest":"sha256:00"}}
{"kind":"pointer","project":"support","environment":"eu","ref":"dddddddd"}
{"kind":"project","name":"support"}
"#;
    let told = refused(&plane, file).await;
    let found: Vec<(u64, &str)> = told.iter().map(|(line, code, _)| (*line, code.as_str())).collect();
    assert_eq!(
        found,
        [
            (3, "host_taken"),
            (4, "host_taken"),
            (5, "project_not_found"),
            (6, "invalid_request"),
            (7, "invalid_request"),
            (8, "invalid_request"),
            (9, "invalid_request"),
            (10, "deployment_not_found"),
            (11, "invalid_request"),
        ]
    );
    assert!(told[0].2.contains("support/eu (line 2)"), "{told:?}");
    assert!(told[1].2.contains("there/staging"), "{told:?}");
    assert!(told[4].2.contains("line 2"), "{told:?}");
    assert!(told[5].2.contains("link-local"), "{told:?}");
}

#[tokio::test]
async fn lines_that_are_none_are_refused_with_a_count() {
    let plane = Plane::start().await;
    let file = format!("{FILE}{}", "{\"kind\":\"secret\"}\n".repeat(250));
    let before = plane.everything().await;
    let refused = import(&plane, &file).await.refused(400, "import_invalid");
    let details = &refused.body["error"]["details"];
    assert_eq!((details["errors"].as_array().unwrap().len(), &details["errors_total"]), (100, &json!(250)));
    assert_eq!(details["errors"][0]["line"], 8);
    assert!(refused.message().contains("line 8") && refused.message().contains("nothing"), "{refused:?}");
    assert_eq!(plane.everything().await, before);
}

#[tokio::test]
async fn the_rules_of_moving_hold_for_lines_too() {
    let plane = Plane::start().await;
    let project = plane.project("support").await;
    let current = plane.serve_fresh(&project, &project.staging).await;
    let ill = plane.deployment(&project).await;
    plane.failing(&project.staging, &ill, "it exits").await;
    let pointer = |reference: &str| {
        format!(
            "{{\"kind\":\"pointer\",\"project\":\"support\",\"environment\":\"staging\",\"ref\":\"{reference}\"}}\n"
        )
    };
    let told = refused(&plane, &pointer(&reference(&plane, &ill).await)).await;
    assert_eq!((told[0].0, told[0].1.as_str()), (1, "target_not_ready"));

    let ready = plane.deployment(&project).await;
    plane.ready(&project.staging, &ready).await;
    let ready = pointer(&reference(&plane, &ready).await);
    plane.put(&format!("environments/{}", project.staging), json!({ "locked": true })).await.ok();
    let told = refused(&plane, &format!("\n{ready}")).await;
    assert_eq!((told[0].0, told[0].1.as_str()), (2, "environment_locked"));
    let still_locked = "{\"kind\":\"environment\",\"project\":\"support\",\"name\":\"staging\",\"locked\":true}\n";
    assert_eq!(refused(&plane, &format!("{ready}{still_locked}")).await[0].1, "environment_locked");
    assert_eq!(plane.current(&project.staging).await, Some(current));

    imported(&plane, &format!("{ready}{}", still_locked.replace("true", "false"))).await;
    assert_eq!(
        format!("{ready}"),
        pointer(environment(&plane, "support", "staging").await["current_ref"].as_str().unwrap())
    );
}

#[tokio::test]
async fn a_deployment_is_never_changed_by_a_line() {
    let plane = Plane::start().await;
    imported(&plane, FILE).await;
    for changed in [FILE.replace("127.0.0.1:9", "127.0.0.1:8"), FILE.replace("first", "second")] {
        let told = refused(&plane, &changed).await;
        assert_eq!((told[0].0, told[0].1.as_str()), (4, "name_taken"));
        assert!(told[0].2.contains("never change"), "{told:?}");
    }
}

#[tokio::test]
async fn hosts_change_hands_within_one_file() {
    let plane = Plane::start().await;
    let hosts = |one: &str, two: &str| {
        format!(
            "{{\"kind\":\"environment\",\"project\":\"support\",\"name\":\"staging\",\"hosts\":[{one}]}}\n\
             {{\"kind\":\"environment\",\"project\":\"support\",\"name\":\"preview\",\"hosts\":[{two}]}}\n"
        )
    };
    imported(
        &plane,
        &format!("{{\"kind\":\"project\",\"name\":\"support\"}}\n{}", hosts("\"a.example\"", "\"b.example\"")),
    )
    .await;
    let before = plane.store.head().revision;
    let done = imported(&plane, &hosts("\"b.example\"", "\"a.example\"")).await;
    assert_eq!((&done["environments"]["changed"], &done["revision"]), (&json!(2), &json!(before.next())));
    assert_eq!(environment(&plane, "support", "staging").await["hosts"][1], "b.example");
    let told = refused(&plane, &hosts("\"a.example\"", "\"a.example\"")).await;
    assert_eq!((told.len(), told[0].0), (1, 1), "the one that does not have it yet");
}

#[tokio::test]
async fn names_in_urls_are_resolved_or_refused() {
    let plane = Plane::start().await;
    let named = |host: &str| FILE.replace("http://127.0.0.1:9", &format!("http://{host}:9"));
    let told = refused(&plane, &named("no-such-name.invalid")).await;
    assert_eq!((told[0].0, told[0].1.as_str()), (1, "target_not_ready"));
    assert!(told[0].2.contains("no-such-name.invalid"), "{told:?}");
    imported(&plane, &named("localhost")).await;
    let eu = environment(&plane, "support", "eu").await;
    assert_eq!(eu["pools"][0]["state"], "running");
}

#[tokio::test]
async fn an_import_needs_the_role_and_the_media_type() {
    let plane = Plane::start().await;
    let before = plane.everything().await;
    let file = || Some(FILE.as_bytes().to_vec());
    let json_type = [("x-api-key", plane.key.as_str()), ("content-type", "application/json")];
    plane.send_with("POST", "import", &json_type, file()).await.refused(415, "unsupported_media_type");
    let (viewer, hash) = ("rpt_viewer", Sha256::digest("rpt_viewer").to_vec());
    let key = ApiKey {
        id: uuid::Uuid::now_v7().into(),
        name: "eve".into(),
        hash,
        role: "viewer".into(),
        created_at: jiff::Timestamp::now(),
    };
    let mut tx = plane.store.write().await.unwrap();
    tx.insert_key(&key).await.unwrap();
    tx.commit().await.unwrap();
    let headers = [("x-api-key", viewer), ("content-type", "application/x-ndjson")];
    plane.send_with("POST", "import", &headers, file()).await.refused(403, "forbidden");
    plane.send_with("GET", "export", &headers, None).await.refused(403, "forbidden");
    assert_eq!(plane.everything().await, before);
}

/// What proxies are told is the same whichever way it came about.
#[tokio::test]
async fn routes_of_an_import_are_those_of_one_request_at_a_time() {
    let plane = Plane::start().await;
    let lines: String = (0..700).map(some_environment).collect();
    imported(&plane, &format!("{{\"kind\":\"project\",\"name\":\"support\"}}\n{lines}")).await;
    let bulk = plane.store.snapshot().await.unwrap();
    // The digest kept along the way is that of the records; and each record is what its rows come to when they are
    // touched one at a time.
    let of = |bytes: &bytes::Bytes| {
        let record = repoint::wire::decode_record(bytes).unwrap();
        Digest::of_record(&record.key().to_string(), bytes)
    };
    assert_eq!(bulk.records.iter().map(of).fold(Digest::default(), Digest::with), bulk.position.digest);
    assert_eq!(bulk.records.len(), 1 + 703 + 700);
    let mut page = Page { limit: 200, after: None };
    loop {
        let listed = plane.store.read().await.unwrap().environments(None, &page).await.unwrap();
        for environment in &listed.items {
            let mut tx = plane.store.write().await.unwrap();
            tx.update_environment(environment).await.unwrap();
            tx.commit().await.unwrap();
        }
        page.after = listed.next;
        if page.after.is_none() {
            break;
        }
    }
    assert_eq!(plane.store.snapshot().await.unwrap(), bulk, "touching them one by one finds no difference");
}

fn some_environment(n: u32) -> String {
    let reference = DeploymentRef::from_bytes(u64::from(n).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes());
    format!(
        "{{\"kind\":\"deployment\",\"project\":\"support\",\"ref\":\"{reference}\",\"source\":{{\"kind\":\"endpoints\",\"endpoints\":[\"http://127.0.0.1:{}\"]}}}}\n\
         {{\"kind\":\"environment\",\"project\":\"support\",\"name\":\"e{n}\"}}\n\
         {{\"kind\":\"pointer\",\"project\":\"support\",\"environment\":\"e{n}\",\"ref\":\"{reference}\"}}\n",
        20_000 + n
    )
}

async fn reference(plane: &Plane, deployment: &str) -> String {
    plane.get(&format!("deployments/{deployment}")).await.ok().body["ref"].as_str().unwrap().to_owned()
}
