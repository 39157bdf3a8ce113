//! Members outlive the process that knew them.

use super::*;
use crate::model::member::{MemberKey, StoredMember};
use crate::store::MembersChange;

fn member(proxy: &str, instance: u128) -> StoredMember {
    StoredMember {
        key: MemberKey { proxy_id: proxy.into(), instance_id: Uuid::from_u128(instance).into() },
        build: "repoint/test".into(),
        zone: "here".into(),
        address: "127.0.0.1:1".parse().unwrap(),
        keeps_table: true,
        embedded: false,
        last_heard: at(7),
        durable: Some(Revision(3)),
    }
}

async fn arrive(fixture: &Fixture, members: &[&StoredMember]) {
    let arrived = members.iter().map(|member| (*member).clone()).collect();
    fixture.store.keep_members(&MembersChange { arrived, ..MembersChange::default() }).await.unwrap();
}

#[tokio::test]
async fn members_are_what_was_written_last() {
    let fixture = Fixture::new().await;
    let head = fixture.store.head();
    let (a, b, c) = (member("a", 1), member("b", 1), member("a", 2));
    arrive(&fixture, &[&a, &b, &c]).await;
    let later = StoredMember { last_heard: at(9), durable: None, address: "127.0.0.1:2".parse().unwrap(), ..a.clone() };
    let heard = vec![later.clone(), member("nobody", 1)];
    let change = MembersChange { departed: vec![b.key.clone()], heard, ..MembersChange::default() };
    fixture.store.keep_members(&change).await.unwrap();
    assert!(fixture.read().await.members_of("nobody").await.unwrap().is_empty(), "it was forgotten meanwhile");
    assert_eq!(fixture.store.head(), head, "members are no part of what proxies are told");
    assert_eq!(fixture.read().await.members_of("a").await.unwrap(), [a.key.instance_id, c.key.instance_id]);

    let fixture = fixture.reopen("localhost").await;
    assert_eq!(fixture.store.take_over_members().await.unwrap(), [later, c]);
}

#[tokio::test]
async fn a_member_that_departed_and_is_here_again_stays() {
    let fixture = Fixture::new().await;
    let a = member("a", 1);
    let change = MembersChange { departed: vec![a.key.clone()], arrived: vec![a.clone()], heard: Vec::new() };
    fixture.store.keep_members(&change).await.unwrap();
    assert_eq!(fixture.store.take_over_members().await.unwrap(), std::slice::from_ref(&a));
    let mut writing = fixture.write().await;
    assert!(writing.delete_member(&a.key).await.unwrap());
    assert!(!writing.delete_member(&a.key).await.unwrap(), "it is gone already");
    writing.commit().await.unwrap();
    assert!(fixture.store.take_over_members().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_proxy_that_ended_with_the_last_owner_is_no_member_any_more() {
    let fixture = Fixture::new().await;
    let embedded = StoredMember { embedded: true, ..member("up", 1) };
    arrive(&fixture, &[&embedded, &member("up", 2)]).await;
    let fixture = fixture.reopen("localhost").await;
    assert_eq!(fixture.store.take_over_members().await.unwrap(), [member("up", 2)]);
}
