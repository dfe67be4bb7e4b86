//! What can be written is a closed set: a handler neither names statements nor makes parts of commands.
use longshore::store::{Op, Store};

async fn write(store: &Store) {
    let op = Op {
        sql: "delete from tasks".into(),
        rows: String::new(),
    };
    store.command("mine", vec![op]).await.unwrap();
}

fn main() {}
