//! What is remembered of users: page by page, for 30 days, each user alone.

use store::{ErrorKind, LONGEST_CONTEXT, Mutation, Preferences, Store};

use crate::at;

fn exchange(user: &str, body: &str, second: i64) -> Mutation {
    Mutation::AddExchange { user: user.into(), body: body.into(), at: at(second), expires_at: at(second + 30) }
}

fn preferences(user: &str, body: &str, second: i64) -> Mutation {
    Mutation::PutPreferences(Preferences { user: user.into(), body: body.into(), at: at(second), expires_at: at(second + 30) })
}

// Mutations: the queries leave out `user`, or `expires_at`; `max(exchange)` counts all users.
#[tokio::test]
async fn a_conversation_is_read_backwards_in_pages_and_belongs_to_one_user() {
    let store = Store::open_in_memory().await.unwrap();
    for number in 1..=5 {
        store.commit(exchange("mia", &number.to_string(), number)).await.unwrap();
    }
    store.commit(exchange("max", "x", 1)).await.unwrap();
    store.commit(preferences("mia", "{\"locale\":\"de\"}", 1)).await.unwrap();
    store.commit(preferences("mia", "{\"locale\":\"fr\"}", 2)).await.unwrap();

    let (mut seen, mut before) = (Vec::new(), None);
    loop {
        let page = store.exchanges("mia", before, 2, at(6)).await.unwrap();
        let Some(last) = page.last() else { break };
        before = Some(last.number);
        seen.extend(page.into_iter().map(|exchange| (exchange.number, exchange.body)));
    }
    assert_eq!(seen, [5, 4, 3, 2, 1].map(|number| (number, number.to_string())));
    let others = store.exchanges("max", None, 0, at(6)).await.unwrap();
    assert_eq!(others.iter().map(|exchange| exchange.number).collect::<Vec<_>>(), [1]);
    assert_eq!(store.preferences("mia", at(6)).await.unwrap().unwrap().body, "{\"locale\":\"fr\"}");
    assert_eq!(store.preferences("max", at(6)).await.unwrap(), None);

    // By the clock, swept or not.
    assert_eq!(store.exchanges("mia", None, 0, at(33)).await.unwrap().len(), 2);
    assert_eq!(store.preferences("mia", at(32)).await.unwrap(), None);
    let swept = store.commit(Mutation::Sweep { now: at(33), limit: 100 }).await.unwrap().swept;
    assert_eq!(swept, 5, "three exchanges of mia, her preferences, and the one exchange of max");
    assert_eq!(store.exchanges("mia", None, 0, at(6)).await.unwrap().len(), 2);

    store.commit(Mutation::ForgetUser { user: "mia".into(), at: at(34) }).await.unwrap();
    assert!(store.exchanges("mia", None, 0, at(6)).await.unwrap().is_empty());
}

#[tokio::test]
async fn one_exchange_stays_below_what_a_row_of_any_store_holds() {
    let store = Store::open_in_memory().await.unwrap();
    store.commit(exchange("mia", &"x".repeat(LONGEST_CONTEXT), 1)).await.unwrap();
    for long in [exchange("mia", &"x".repeat(LONGEST_CONTEXT + 1), 1), preferences("mia", &"x".repeat(LONGEST_CONTEXT + 1), 1)] {
        assert_eq!(store.commit(long).await.unwrap_err().kind, ErrorKind::Invalid);
    }
    assert_eq!(store.exchanges("mia", None, 0, at(2)).await.unwrap().len(), 1);
}
