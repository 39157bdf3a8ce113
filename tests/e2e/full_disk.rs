//! Disks that are really full or read-only: small file systems of our own, in a mount namespace of our own.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use super::known_good::{Scene, metric, ready};
use super::support::server::{Server, folder};
use super::support::until;

/// Set for the test that runs in the namespace.
const ALONE: &str = "REPOINT_TEST_MOUNTS";

/// Runs `story` with a small empty file system; in a process of its own, as the mount ends with that.
fn on_a_small_disk(name: &str, story: impl FnOnce(Disk)) {
    if std::env::var_os(ALONE).is_some() {
        return story(Disk::mount());
    }
    let possible = Command::new("unshare").args(["-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]).status();
    if !possible.is_ok_and(|status| status.success()) {
        return println!("skipped: no file system of its own can be mounted here");
    }
    let mut alone = Command::new("unshare");
    alone.arg("-rm").arg(std::env::current_exe().expect("this test")).args(["--exact", name, "--nocapture"]);
    let output = alone.env(ALONE, "1").output().expect("unshare runs");
    let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
    assert!(output.status.success() && said[0].contains("1 passed"), "{}{}", said[0], said[1]);
}

/// A file system of four megabytes.
struct Disk {
    folder: tempfile::TempDir,
}

impl Disk {
    fn mount() -> Self {
        let folder = folder();
        mount(&["-t", "tmpfs", "-o", "size=4m,mode=0755", "tmpfs"], folder.path());
        Self { folder }
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn filler(&self) -> PathBuf {
        self.folder.path().join("filler")
    }

    /// Leaves not a byte.
    fn fill(&self) {
        let mut filler = File::create(self.filler()).expect("a file of ours");
        let (mut written, mut piece) = (0, 64 * 1024);
        while piece > 0 {
            match filler.write(&vec![1; piece]) {
                Ok(count) => written += count,
                Err(_) => piece /= 2,
            }
        }
        assert!(written > 0);
    }

    fn free(&self) {
        fs::remove_file(self.filler()).expect("a file of ours");
    }

    fn read_only(&self, on: bool) {
        mount(&["-o", if on { "remount,ro" } else { "remount,rw" }], self.folder.path());
    }
}

fn mount(arguments: &[&str], folder: &Path) {
    let done = Command::new("mount").args(arguments).arg(folder).status().expect("mount runs");
    assert!(done.success(), "{arguments:?}");
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are UTF-8")
}

#[test]
fn a_full_disk_delays_no_move_at_a_proxy_and_what_was_missed_is_written_later() {
    on_a_small_disk("full_disk::a_full_disk_delays_no_move_at_a_proxy_and_what_was_missed_is_written_later", |disk| {
        let mut scene = Scene::begin(&["--data-dir", text(&disk.data())]);
        scene.durable();
        disk.fill();
        let before = metric(&scene.proxy, "repoint_last_known_good_durable_revision");
        // A page that the journal has begun takes a few moves more.
        let mut moves = 0;
        until("the disk to be full", || {
            moves += 1;
            scene.promote(moves % 2);
            scene.proxy.log().contains("No space left on device").then_some(())
        });
        scene.promote(1);
        assert_eq!((scene.served().body.as_str(), ready(&scene.proxy).status), ("v2", 200));
        let held = metric(&scene.proxy, "repoint_last_known_good_durable_revision");
        let applied = metric(&scene.proxy, "repoint_stream_client_applied_revision");
        assert!(before <= held && held < applied, "nothing is claimed that is not there: {held} of {applied}");
        let listed = scene.api.get("/api/v1/proxies").ok()["items"][0]["durable_revision"].as_f64();
        assert!(listed.is_some_and(|durable| durable <= held), "{listed:?} of {held}");

        disk.free();
        scene.durable();
        scene.control.kill();
        scene.proxy.kill();
        scene.proxy.start_again();
        assert_eq!(scene.served().body, "v2", "all of it is there after a crash");
    });
}

#[test]
fn a_proxy_whose_folder_became_read_only_serves_from_it_and_says_that_it_keeps_nothing_newer() {
    on_a_small_disk(
        "full_disk::a_proxy_whose_folder_became_read_only_serves_from_it_and_says_that_it_keeps_nothing_newer",
        |disk| {
            let mut scene = Scene::begin(&["--data-dir", text(&disk.data())]);
            scene.durable();
            scene.proxy.kill();
            disk.read_only(true);
            scene.proxy.start_again();
            assert_eq!((scene.served().body.as_str(), ready(&scene.proxy).status), ("v1", 200), "what it has kept");
            until("the log to say so", || {
                let log = scene.proxy.log();
                (log.contains("changes are applied and not kept") && log.contains("Read-only file system"))
                    .then_some(())
            });
            let held = metric(&scene.proxy, "repoint_last_known_good_durable_revision");
            scene.promote(1);
            assert_eq!(metric(&scene.proxy, "repoint_last_known_good_failing"), 1.0);
            assert_eq!(metric(&scene.proxy, "repoint_last_known_good_durable_revision"), held, "nothing is claimed");
            assert_eq!(scene.served().body, "v2");

            scene.proxy.kill();
            disk.read_only(false);
            scene.proxy.start_again();
            scene.durable();
            assert_eq!(scene.served().body, "v2");
        },
    );
}

#[test]
fn a_promotion_on_a_full_disk_is_refused_and_changes_nothing_until_there_is_room() {
    on_a_small_disk(
        "full_disk::a_promotion_on_a_full_disk_is_refused_and_changes_nothing_until_there_is_room",
        |disk| {
            let mut scene = Scene::under(Server::control_in(&disk.data()), &[]);
            disk.fill();
            let production = scene.project.environment("production").to_owned();
            let mut moves = 0;
            // What the log has room for already is taken first.
            let (status, code) = until("the disk to be full", || {
                moves += 1;
                let body = json!({
                    "source_deployment_id": scene.deployments[moves % 2],
                    "target_environment_id": production, "wait_ms": 10_000,
                });
                let answer = scene.api.post("/api/v1/deployments/promote", &body);
                (answer.status >= 400).then(|| answer.refused())
            });
            assert_eq!((status, code.as_str()), (507, "storage_full"));
            let current = scene.api.current(&production);
            let before = &scene.deployments[(moves - 1) % 2];
            assert_eq!(current.as_deref(), Some(before.as_str()), "reading goes on, and nothing has moved");
            assert_eq!(scene.served().deployment(), before);
            let history = scene.api.history(&production).len();
            assert!(scene.control.log().contains("disk is full"), "{}", scene.control.log());

            disk.free();
            scene.promote(moves % 2);
            assert_eq!(scene.served().deployment(), scene.deployments[moves % 2]);
            assert_eq!(scene.api.history(&production).len(), history + 1, "the refused ones left no row");
            scene.control.kill();
            scene.control.start_again();
            scene.api = scene.control.api();
            assert_eq!(scene.api.current(&production).as_deref(), Some(scene.deployments[moves % 2].as_str()));
            scene.caught_up();
        },
    );
}
