//! There is no transaction to hold: a command is a value, and the store runs it.
use longshore::store::Store;

async fn hold(store: &Store) {
    let transaction = store.begin().await.unwrap();
    elsewhere().await;
    transaction.commit().await.unwrap();
}

async fn elsewhere() {}

fn main() {}
