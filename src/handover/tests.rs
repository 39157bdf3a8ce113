//! Both sides over a real Unix socket.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use tokio::time::timeout;
use uuid::Uuid;

use super::{Door, Error, Estate, Passed, Place, Predecessor, door_of, meet};
use crate::model::revision::Revision;

const LIMIT: Duration = Duration::from_secs(20);

/// What a proxy with one address on two cores has.
fn estate() -> Estate {
    let first = TcpListener::bind("127.0.0.1:0").unwrap();
    let asked = "127.0.0.1:0".parse().unwrap();
    let passed = |is_fixed| Passed { name: "ingress".into(), asked, is_fixed, listener: first.try_clone().unwrap() };
    let place = Place { lineage: Uuid::from_u128(1).into(), revision: Revision(7) };
    Estate { sockets: vec![passed(false), passed(true)], lock: tempfile::tempfile().unwrap(), position: Some(place) }
}

async fn met(folder: &std::path::Path) -> (Predecessor, Estate) {
    timeout(LIMIT, meet(folder, "new")).await.unwrap().unwrap().expect("somebody is there")
}

#[tokio::test]
async fn what_is_offered_arrives_and_the_queue_of_a_socket_outlives_its_first_owner() {
    let folder = tempfile::tempdir().unwrap();
    let door = Door::open(folder.path()).unwrap();
    let mode = std::fs::metadata(door_of(folder.path())).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let offered = estate();
    let address = offered.sockets[0].listener.local_addr().unwrap();
    let running = async {
        let mut successor = door.knocked().await;
        assert_eq!((successor.pid, successor.build.as_str()), (Some(std::process::id()), "new"));
        successor.offer(&offered).await.unwrap();
        successor.ready(LIMIT).await.unwrap();
        successor.go().await.unwrap();
    };
    let starting = async {
        let (mut predecessor, estate) = met(folder.path()).await;
        predecessor.ready().await.unwrap();
        predecessor.serving().await;
        (predecessor, estate)
    };
    let ((), (mut predecessor, taken)) = timeout(LIMIT, async { tokio::join!(running, starting) }).await.unwrap();
    assert!(matches!(predecessor.gone().await, Error::Ended), "the end says that all is ours");
    let said = |estate: &Estate| -> Vec<_> {
        estate.sockets.iter().map(|passed| (passed.name.clone(), passed.asked, passed.is_fixed)).collect()
    };
    assert_eq!((said(&taken), taken.position), (said(&offered), offered.position));

    let _waiting = std::net::TcpStream::connect(address).unwrap();
    drop(offered);
    assert!(taken.sockets[0].listener.accept().is_ok(), "nobody closed the queue");
    drop(door);
    assert!(!door_of(folder.path()).exists());
}

#[tokio::test]
async fn without_a_running_proxy_there_is_nothing_to_take_over() {
    let folder = tempfile::tempdir().unwrap();
    assert!(meet(folder.path(), "new").await.unwrap().is_none());
    // What a crash leaves behind, too.
    drop(std::os::unix::net::UnixListener::bind(door_of(folder.path())).unwrap());
    assert!(meet(folder.path(), "new").await.unwrap().is_none());
    assert!(Door::open(folder.path()).is_ok(), "and it is no obstacle");
}

#[tokio::test]
async fn a_second_successor_is_turned_away_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let door = Door::open(folder.path()).unwrap();
    let refused = tokio::select! {
        never = door.turn_away("another one prepares") => match never {},
        refused = meet(folder.path(), "new") => refused.unwrap_err(),
    };
    assert!(refused.to_string().contains("another one prepares"), "{refused}");
}

#[tokio::test]
async fn a_successor_that_ends_or_is_late_is_told_apart_from_one_that_is_ready() {
    let folder = tempfile::tempdir().unwrap();
    let door = Door::open(folder.path()).unwrap();
    let estate = estate();
    let (ended, ()) = tokio::join!(
        async {
            let mut successor = door.knocked().await;
            successor.offer(&estate).await.unwrap();
            successor.ready(LIMIT).await.unwrap_err()
        },
        async { drop(met(folder.path()).await) }
    );
    assert!(matches!(ended, Error::Ended), "{ended}");

    let (late, told) = tokio::join!(
        async {
            let mut successor = door.knocked().await;
            successor.offer(&estate).await.unwrap();
            successor.ready(Duration::from_millis(20)).await.unwrap_err()
        },
        async { met(folder.path()).await.0.gone().await }
    );
    assert!(matches!(late, Error::Late(_)) && told.to_string().contains("not ready within"), "{late}, {told}");

    let (ended, ()) = tokio::join!(
        async {
            let mut successor = door.knocked().await;
            successor.offer(&estate).await.unwrap();
            successor.ready(LIMIT).await.unwrap();
            successor.go().await.unwrap_err()
        },
        async { met(folder.path()).await.0.ready().await.unwrap() }
    );
    assert!(matches!(ended, Error::Ended), "one that ends after Go has not taken over: {ended}");
}

#[tokio::test]
async fn what_speaks_another_protocol_is_turned_away() {
    use std::io::Write;

    let folder = tempfile::tempdir().unwrap();
    let door = Door::open(folder.path()).unwrap();
    let say = |text: &str| {
        let mut stream = std::os::unix::net::UnixStream::connect(door_of(folder.path())).unwrap();
        stream.write_all(&u32::try_from(text.len()).unwrap().to_be_bytes()).unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        stream
    };
    let _strangers =
        [say(r#"{"says":"hello","protocol":9,"build":"later"}"#), say(r#"{"says":"ready"}"#), say("GET / HTTP/1.1")];
    let _known = say(r#"{"says":"hello","protocol":1,"build":"next","and":"more"}"#);
    let successor = timeout(LIMIT, door.knocked()).await.unwrap();
    assert_eq!(successor.build, "next", "the others were turned away");
}
