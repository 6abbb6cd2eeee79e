//! What is only read.

use std::{collections::HashSet, sync::Arc};

use super::{MINUTE, SIZE, Subject, claim_all, digest, orphan, put, tag, upload};
use crate::blobs::{BlobId, Digest, State, Tag, Totals, catalog::Filter};

/// The live one is what a reader wants.
pub async fn shows_the_blobs_of_a_digest_with_the_live_one_first(subject: Arc<dyn Subject>) {
    let pending = upload(&*subject, digest(1), &tag("a", "")).await;
    subject.advance(MINUTE);
    let live = put(&*subject, digest(1), &tag("b", "")).await;
    put(&*subject, digest(2), &tag("b", "")).await;
    let found = subject.blobs(digest(1)).await.expect("read");
    let found: Vec<_> = found.iter().map(|blob| (blob.id, blob.digest, blob.state)).collect();
    assert_eq!(found, [(live, digest(1), State::Live), (pending, digest(1), State::Pending)]);
    assert_eq!(subject.blobs(digest(3)).await.expect("read"), []);
}

/// A ref has everything that was said of it.
pub async fn shows_the_refs_of_a_digest_oldest_first(subject: Arc<dyn Subject>) {
    let first = Tag {
        task: "z \u{1F9F9}'\"".to_owned(),
        run: Some("run".to_owned()),
        attempt: u32::MAX,
        name: "ü/%_.png".to_owned(),
        content_type: Some("image/png".to_owned()),
    };
    let id = put(&*subject, digest(1), &first).await;
    subject.advance(MINUTE);
    subject.begin(digest(1), SIZE, &tag("a", "")).await.expect("begun");
    let refs = subject.refs(digest(1), 10).await.expect("read");
    assert_eq!(refs.iter().map(|one| &one.tag).collect::<Vec<_>>(), [&first, &tag("a", "")]);
    assert!(refs.iter().all(|one| (one.blob, one.digest, one.size, one.is_final) == (id, digest(1), SIZE, false)));
    assert!(refs[1].created_at >= refs[0].created_at + MINUTE, "{refs:?}");
    assert_eq!(subject.refs(digest(1), 1).await.expect("read"), refs[..1]);
}

/// The pages are one list, in the order of bytes, whatever their size and the filter.
pub async fn lists_refs_in_pages_by_filter(subject: Arc<dyn Subject>) {
    for (number, (task, name)) in (0..).zip([("a", "B"), ("a", "a"), ("a", "b"), ("B", "x"), ("a b", "x"), ("á", "x")])
    {
        let run = (task != "B").then(|| "run".to_owned());
        put(&*subject, digest(number), &Tag { run, ..tag(task, name) }).await;
    }
    let of =
        |task: Option<&str>, run: Option<&str>| Filter { task: task.map(str::to_owned), run: run.map(str::to_owned) };
    let expected = [
        (of(None, None), vec!["B/x", "a/B", "a/a", "a/b", "a b/x", "á/x"]),
        (of(Some("a"), None), vec!["a/B", "a/a", "a/b"]),
        (of(None, Some("run")), vec!["a/B", "a/a", "a/b", "a b/x", "á/x"]),
        (of(Some("a b"), Some("run")), vec!["a b/x"]),
        (of(Some("B"), Some("run")), vec![]),
    ];
    for (filter, expected) in expected {
        for limit in 1..=7 {
            let (mut found, mut after) = (Vec::new(), None);
            loop {
                let page = subject.list(&filter, after.as_ref(), limit).await.expect("read");
                assert!(page.len() <= limit);
                found.extend(page.iter().map(|one| format!("{}/{}", one.tag.task, one.tag.name)));
                let Some(last) = page.last() else { break };
                after = Some(last.clone());
            }
            assert_eq!(found, expected, "{filter:?} in pages of {limit}");
        }
    }
}

/// Every blob counts, whatever its state.
pub async fn counts_what_there_is(subject: Arc<dyn Subject>) {
    assert_eq!(subject.totals().await.expect("counted"), Totals::default());
    put(&*subject, digest(1), &tag("a", "x")).await;
    upload(&*subject, digest(2), &tag("a", "x")).await;
    orphan(&*subject, digest(3)).await;
    let expected = Totals { pending: 1, live: 2, referenced: 1, deleting: 0, bytes: 3 * SIZE };
    assert_eq!(subject.totals().await.expect("counted"), expected);
    assert_eq!(claim_all(&*subject).await.len(), 2);
    let expected = Totals { pending: 0, live: 1, referenced: 1, deleting: 2, bytes: 3 * SIZE };
    assert_eq!(subject.totals().await.expect("counted"), expected);
}

/// The live blobs of one shard, the first and the last one included, by digest.
pub async fn shows_live_blobs_of_a_shard(subject: Arc<dyn Subject>) {
    let with = |first: u8, rest: u8| {
        let mut bytes = [rest; 32];
        bytes[0] = first;
        Digest::new(bytes)
    };
    for shard in [0x00, 0x7f, 0xff] {
        for rest in [0xff, 0x00, 0x70] {
            put(&*subject, with(shard, rest), &tag("a", &format!("{shard}-{rest}"))).await;
        }
    }
    upload(&*subject, with(0x7f, 0x01), &tag("a", "pending")).await;
    subject.advance(MINUTE);
    let before = subject.now().await.expect("read");
    put(&*subject, with(0x7f, 0x02), &tag("a", "young")).await;
    for shard in [0x00, 0x7f, 0xff] {
        let first = subject.live(shard, before, None, 2).await.expect("read");
        assert_eq!(first.iter().map(|blob| blob.digest).collect::<Vec<_>>(), [with(shard, 0x00), with(shard, 0x70)]);
        let rest = subject.live(shard, before, Some(first[1].digest), 2).await.expect("read");
        assert_eq!(rest.iter().map(|blob| blob.digest).collect::<Vec<_>>(), [with(shard, 0xff)]);
    }
    assert_eq!(subject.live(0x01, before, None, 2).await.expect("read"), []);
}

/// The last one that was written is read.
pub async fn remembers_when_an_inventory_ended(subject: Arc<dyn Subject>) {
    assert_eq!(subject.inventory_at().await.expect("read"), None);
    let now = subject.now().await.expect("read");
    for at in [now, now + MINUTE] {
        subject.set_inventory_at(at).await.expect("written");
        assert_eq!(subject.inventory_at().await.expect("read"), Some(at));
    }
}

/// Ids in any state are known until they are forgotten.
pub async fn tells_which_ids_it_knows(subject: Arc<dyn Subject>) {
    let live = put(&*subject, digest(1), &tag("a", "x")).await;
    let pending = upload(&*subject, digest(2), &tag("a", "x")).await;
    let gone = orphan(&*subject, digest(3)).await;
    subject.give_up(pending).await.expect("given up");
    let asked = [live, pending, gone, BlobId::new()];
    assert_eq!(subject.known(&asked).await.expect("read"), HashSet::from([live, pending, gone]));
    claim_all(&*subject).await;
    subject.forget(&[gone]).await.expect("forgotten");
    assert_eq!(subject.known(&asked).await.expect("read"), HashSet::from([live, pending]));
    assert_eq!(subject.known(&[]).await.expect("read"), HashSet::new());
}
