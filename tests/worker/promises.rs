//! What a replica is promised, and what it must not get.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;

use crate::bench::{Bench, MIRROR, MIRROR_TOML, environment_of, look, ready};

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_gets_exactly_the_promised_environment() {
    let bench = Bench::start().await;
    let key = bench.deploy_mirror(1).await;
    let pool = bench.until_ready(key, 1).await;
    let address = ready(&pool)[0];
    let mut seen = environment_of(&look(address));
    let home = seen.get("HOME").unwrap().clone();
    assert!(Path::new(&home).starts_with(bench.dir.path().join("work")), "{home}");
    // Python sets this one itself in a plain locale (PEP 538).
    seen.remove("LC_CTYPE");
    let mut expected: BTreeMap<String, String> = [
        ("PORT", address.port().to_string()),
        ("REPOINT_PROJECT", "support".to_owned()),
        ("REPOINT_ENVIRONMENT", "preview".to_owned()),
        ("REPOINT_DEPLOYMENT_ID", key.deployment.to_string()),
        ("HOME", home.clone()),
        ("TMPDIR", home),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    for inherited in ["PATH", "LANG", "LC_ALL", "TZ"] {
        expected.extend(std::env::var(inherited).ok().map(|value| (inherited.to_owned(), value)));
    }
    assert_eq!(seen, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_inherits_no_descriptor_and_has_a_session_and_a_folder_of_its_own() {
    // Something a careless fork would hand on.
    let held = std::fs::File::open("/dev/null").unwrap();
    rustix::io::fcntl_setfd(&held, rustix::io::FdFlags::empty()).unwrap();
    let bench = Bench::start().await;
    let key = bench.deploy_mirror(1).await;
    let pool = bench.until_ready(key, 1).await;
    let seen = look(ready(&pool)[0]);
    let descriptors: BTreeMap<String, String> = serde_json::from_value(seen["descriptors"].clone()).unwrap();
    assert_eq!(descriptors["0"], "/dev/null");
    assert!(descriptors["1"].starts_with("pipe:") && descriptors["2"].starts_with("pipe:"), "{descriptors:?}");
    // What it opened itself: listener, connections, and the list of its descriptors, closed when it was read.
    let own = |to: &String| to.starts_with("socket:") || to == "closed";
    let others: Vec<_> = descriptors.iter().filter(|(fd, _)| !["0", "1", "2"].contains(&fd.as_str())).collect();
    assert!(others.iter().all(|(_, to)| own(to)), "{descriptors:?}");
    assert_eq!((&seen["group"], &seen["session"]), (&seen["pid"], &seen["pid"]));
    assert_eq!(seen["umask"], 0o027);
    assert_eq!((&seen["writes_home"], &seen["writes_folder"]), (&json!(true), &json!(is_root_without_user(&seen))));
    assert_eq!(pool.endpoints[0].pid.map(u64::from), seen["pid"].as_u64());
    drop(held);
}

/// Root writes everywhere; but where the tests run as root, replicas do not.
fn is_root_without_user(seen: &serde_json::Value) -> bool {
    seen["user"] == 0
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_of_root_run_as_users_of_their_own() {
    let bench = Bench::start().await;
    let key = bench.deploy_mirror(2).await;
    let pool = bench.until_ready(key, 2).await;
    let seen: Vec<_> = ready(&pool).into_iter().map(look).collect();
    let user = |seen: &serde_json::Value| seen["user"].as_u64().unwrap();
    if rustix::process::geteuid().is_root() {
        assert!(seen.iter().all(|seen| (61_000..62_000).contains(&user(seen))), "{seen:?}");
        assert_ne!(user(&seen[0]), user(&seen[1]));
        assert!(seen.iter().all(|seen| seen["groups"] == json!([])), "{seen:?}");
    } else {
        let own = u64::from(rustix::process::geteuid().as_raw());
        assert!(seen.iter().all(|seen| user(seen) == own), "{seen:?}");
    }
    assert_ne!(environment_of(&seen[0])["HOME"], environment_of(&seen[1])["HOME"]);
    assert_eq!(seen[0]["folder"], seen[1]["folder"], "the bundle is shared");
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_the_manifest_hold() {
    let bench = Bench::start().await;
    let manifest = format!("{MIRROR_TOML}[limits]\nmemory = \"512MiB\"\nopen_files = 128\n");
    let key = bench.deploy(&manifest, &[("worker.py", MIRROR)], 1).await;
    let pool = bench.until_ready(key, 1).await;
    let seen = look(ready(&pool)[0]);
    assert_eq!((&seen["open_files"], &seen["memory"]), (&json!(128), &json!(512 << 20)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_replica_prints_can_be_read_and_its_working_folder_goes_with_it() {
    let mut bench = Bench::start().await;
    let key = bench.deploy_mirror(1).await;
    let pool = bench.until_ready(key, 1).await;
    let home = environment_of(&look(ready(&pool)[0]))["HOME"].clone();
    assert!(Path::new(&home).exists());
    bench.close(key).await;
    bench.proxy_says(&[]);
    bench.until_state(key, repoint::model::pool::PoolState::Stopped).await;
    crate::bench::until("the folder to be removed", || !Path::new(&home).exists()).await;
    let texts: Vec<_> = bench.logs.tail(key, None, 100).unwrap().into_iter().map(|line| line.text).collect();
    assert!(texts.contains(&"listening".to_owned()), "{texts:?}");
    assert!(texts.iter().any(|text| text.starts_with("started as process ")), "{texts:?}");
    crate::bench::until("the note of its end", || {
        bench.logs.tail(key, None, 1).unwrap().iter().any(|line| line.text == "the worker was ended by signal 15")
    })
    .await;
}
