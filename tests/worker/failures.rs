//! Replicas that fail: restarted, reported, and never a reason to stop.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use repoint::bundle::archive_path;
use repoint::model::pool::{PoolErrorKind, PoolState};

use crate::bench::{Bench, MIRROR_TOML, is_alive, ready, until};

fn sh(script: &str) -> String {
    format!("[worker]\ncommand = [\"sh\", \"-c\", {script:?}]\nready_timeout = \"1s\"\nstop_grace = \"1s\"\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_loop_is_reported_with_its_last_words_and_goes_on() {
    let bench = Bench::start().await;
    let key = bench.deploy(&sh("echo boom >&2; exit 3"), &[], 1).await;
    bench.until_state(key, PoolState::Failing).await;
    let error = bench.until_error(key, PoolErrorKind::CrashLoop).await;
    assert!(error.message.contains("exited with status 3"), "{}", error.message);
    assert!(error.output.contains(&"boom".to_owned()), "{:?}", error.output);
    let counted =
        crate::bench::eventually(async || bench.errors(key).await.iter().any(|error| error.count >= 5).then_some(()));
    counted.await.expect("it is started again and again, and counted in one row");
    assert_eq!(bench.errors(key).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_recovers_is_running_again() {
    let bench = Bench::start().await;
    // It fails until a file appears that only the test can make.
    let flag = bench.dir.path().join("work/flag");
    let script = format!("test -e {} || exit 1; exec python3 worker.py", flag.display());
    let key = bench.deploy(&sh(&script).replace("1s", "20s"), &[("worker.py", crate::bench::MIRROR)], 1).await;
    bench.until_state(key, PoolState::Failing).await;
    fs::write(&flag, "").unwrap();
    fs::set_permissions(&flag, Permissions::from_mode(0o644)).unwrap();
    bench.until_ready(key, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_never_listens_is_reported_and_gets_another_chance() {
    let bench = Bench::start().await;
    let key = bench.deploy(&sh("echo idle; exec sleep 1000"), &[], 1).await;
    let first = bench.until(key, "a process", |pool| pool.endpoints.len() == 1).await.endpoints[0].clone();
    let error = bench.until_error(key, PoolErrorKind::ReadinessTimeout).await;
    assert!(error.message.contains("not ready within 1s") && error.message.contains("$PORT"), "{}", error.message);
    assert!(error.output.contains(&"idle".to_owned()), "{:?}", error.output);
    bench.until_state(key, PoolState::Failing).await;
    until("its end", || !is_alive(first.pid.unwrap())).await;
    let again = |pool: &repoint::model::pool::Pool| pool.endpoints.iter().any(|endpoint| endpoint.id != first.id);
    bench.until(key, "another replica", again).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_health_path_that_answers_503_keeps_a_replica_unready() {
    let bench = Bench::start().await;
    let manifest = MIRROR_TOML.replace("[worker]", "[worker]\nready_timeout = \"1s\"\nhealth_path = \"/ill\"");
    let key = bench.deploy(&manifest, &[("worker.py", crate::bench::MIRROR)], 1).await;
    let error = bench.until_error(key, PoolErrorKind::ReadinessTimeout).await;
    assert!(error.message.contains("GET /ill answered 503"), "{}", error.message);
    assert_eq!(bench.pool(key).await.ready_count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_started_says_why() {
    let bench = Bench::start().await;
    let cases = [
        ("[worker]\ncommand = [\"no-such-program\"]", PoolErrorKind::ImageInvalid, "no such program"),
        ("[worker]\ncommand = [\"./missing\"]", PoolErrorKind::ImageInvalid, "no such program"),
        ("[worker]\ncommand = [\"/\"]", PoolErrorKind::ImageInvalid, "user may not"),
        (
            "[worker]\ncommand = [\"sh\"]\n[limits]\nopen_files = 1000000000",
            PoolErrorKind::SchedulingFailed,
            "limits.open_files",
        ),
    ];
    for (manifest, kind, part) in cases {
        let key = bench.deploy(manifest, &[], 1).await;
        let error = bench.until_error(key, kind).await;
        assert!(error.message.contains(part), "{manifest}: {}", error.message);
        bench.until_state(key, PoolState::Failing).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_that_is_missing_or_damaged_is_reported_and_used_once_it_is_there() {
    let bench = Bench::without_supervisor().await;
    let key = bench.deploy_mirror(1).await;
    let deployment = bench.store.read().await.unwrap().deployment(key.deployment).await.unwrap().unwrap();
    let archive = archive_path(bench.dir.path(), &deployment.digest().unwrap().parse().unwrap());
    let bytes = fs::read(&archive).unwrap();
    fs::remove_file(&archive).unwrap();
    let mut bench = bench;
    bench.supervise(|_| {}).await;
    bench.until_error(key, PoolErrorKind::ImageMissing).await;
    fs::write(&archive, &bytes[..100]).unwrap();
    bench.until_error(key, PoolErrorKind::ImageInvalid).await;
    fs::write(&archive, &bytes).unwrap();
    bench.until_ready(key, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_that_somebody_else_has_are_passed_over() {
    let taken = std::net::TcpListener::bind("127.0.0.1:29990").unwrap();
    let bench = Bench::start_with(|config| config.ports = 29_990..=29_991).await;
    let key = bench.deploy_mirror(2).await;
    let error = bench.until_error(key, PoolErrorKind::SchedulingFailed).await;
    assert!(error.message.contains("29990-29991") && error.message.contains("--worker-ports"), "{}", error.message);
    let pool = bench.until_ready(key, 1).await;
    assert_eq!(ready(&pool)[0].port(), 29_991);
    drop(taken);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_the_workers_user_cannot_enter_is_named() {
    if !rustix::process::geteuid().is_root() {
        // Replicas run as we do then, and we can enter our own folder.
        return;
    }
    let bench = Bench::start().await;
    fs::set_permissions(bench.dir.path(), Permissions::from_mode(0o700)).unwrap();
    let key = bench.deploy_mirror(1).await;
    let error = bench.until_error(key, PoolErrorKind::SchedulingFailed).await;
    let remedy = format!("chmod o+x {}", bench.dir.path().display());
    assert!(error.message.contains(&remedy), "{}", error.message);
    fs::set_permissions(bench.dir.path(), Permissions::from_mode(0o711)).unwrap();
    bench.until_ready(key, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_prints_without_end_is_neither_blocked_nor_kept_beyond_its_budget() {
    let bench = Bench::start().await;
    let flood = "import os, threading\nexec(open('worker.py').read().replace('Server((', 'SERVER = Server((').replace('.serve_forever()', ''))\n\
                 threading.Thread(target=SERVER.serve_forever, daemon=True).start()\n\
                 line = ('x' * 99 + '\\n').encode() * 600\n\
                 for turn in range(1000):\n    os.write(1, line)\n\
                 print('survived', flush=True)\nthreading.Event().wait()\n";
    let manifest = "[worker]\ncommand = [\"python3\", \"flood.py\"]\n";
    let key = bench.deploy(manifest, &[("worker.py", crate::bench::MIRROR), ("flood.py", flood)], 1).await;
    bench.until_ready(key, 1).await;
    // Sixty megabytes later.
    until("its last line", || {
        bench.logs.tail(key, None, 1).unwrap().first().is_some_and(|line| line.text == "survived")
    })
    .await;
    let folder = bench.dir.path().join(format!("logs/{}/{}", key.environment, key.deployment));
    let size = |path: &std::path::Path| fs::metadata(path).unwrap().len();
    for replica in fs::read_dir(folder).unwrap() {
        let halves = fs::read_dir(replica.unwrap().path()).unwrap();
        let kept: u64 = halves.map(|half| size(&half.unwrap().path())).sum();
        assert!(kept <= 16 << 20, "{kept} bytes kept");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_falls_ill_is_not_routed_to_until_it_is_well() {
    let bench = Bench::start().await;
    let worker =
        crate::bench::MIRROR.replace("self.path != \"/ill\"", "not os.path.exists(os.environ[\"HOME\"] + \"/ill\")");
    let manifest = MIRROR_TOML.replace("[worker]", "[worker]\nhealth_path = \"/\"");
    let key = bench.deploy(&manifest, &[("worker.py", &worker)], 1).await;
    let pool = bench.until_ready(key, 1).await;
    let home = bench.dir.path().join(format!("work/{}", pool.endpoints[0].id));
    fs::write(home.join("ill"), "").unwrap();
    let ill = bench.until_state(key, PoolState::Failing).await;
    assert_eq!((ill.endpoints.len(), ill.ready_count()), (1, 0), "it goes on with what it has");
    let error = bench.until_error(key, PoolErrorKind::Unhealthy).await;
    assert!(error.message.contains("503"), "{}", error.message);
    fs::remove_file(home.join("ill")).unwrap();
    let well = bench.until_ready(key, 1).await;
    assert_eq!(well.endpoints[0].id, pool.endpoints[0].id);
}
