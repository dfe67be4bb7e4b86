//! Reading takes no statement either, so that none can write.
use longshore::store::Store;

async fn read(store: &Store) {
    let _: Vec<()> = store.read("delete from tasks", &[()]).await.unwrap();
    longshore::store::postgres::Postgres::open;
}

fn main() {}
