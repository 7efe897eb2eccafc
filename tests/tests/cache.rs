//! Compiled plugins that are cached across starts.

use std::{fs, os::unix::fs::MetadataExt, os::unix::fs::PermissionsExt, path::Path};
use switchyard_tests::{KEY, Server, guest, run};

fn text(cache: &Path) -> String {
    format!(
        "{}[[plugin]]\nname = \"thresholds\"\nfile = \"{}\"\nrooms = [\"tvl\"]\n[cache]\nfolder = \"{}\"\n",
        Server::keys(),
        guest("threshold_filter").display(),
        cache.display()
    )
}

/// Name and inode of each file. A rewritten file has another inode.
fn files(folder: &Path) -> Vec<(String, u64)> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry"));
    let number = |entry: &fs::DirEntry| entry.metadata().expect("a file").ino();
    entries.map(|entry| (entry.file_name().into_string().expect("text"), number(&entry))).collect()
}

/// Starts and stops a node, and returns what the cache contains.
async fn start(cache: &Path) -> Vec<(String, u64)> {
    let server = Server::start_with(&text(cache)).await;
    let plugins = server.get("/v1/plugins").await;
    assert_eq!(plugins["plugins"][0]["state"], "active", "{plugins}");
    server.stop().await;
    files(cache)
}

#[tokio::test]
async fn a_second_start_reads_what_the_first_compiled() {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = folder.path().join("compiled");
    let first = start(&cache).await;
    assert_eq!(first.len(), 1, "{first:?}");
    assert_eq!(start(&cache).await, first, "what is compiled is written");

    // Other machine code in its place is not executed.
    let file = cache.join(&first[0].0);
    let mut bytes = fs::read(&file).expect("an artefact");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    fs::write(&file, &bytes).expect("damage");
    let third = start(&cache).await;
    assert!(third.len() == 1 && third != first, "{third:?}");
    assert_ne!(fs::read(&file).expect("an artefact"), bytes);

    // A version that an operator loads is cached as well.
    let server = Server::start_with(&text(&cache)).await;
    let other = fs::read(guest("orderbook")).expect("a guest");
    assert_eq!(server.call("PUT", "/v1/plugins/thresholds", Some(KEY), other).await.0, 200);
    assert_eq!(files(&cache).len(), 2);
}

#[tokio::test]
async fn a_cache_folder_that_others_can_write_to_is_rejected() {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = folder.path().join("compiled");
    fs::create_dir(&cache).expect("a folder");
    fs::set_permissions(&cache, fs::Permissions::from_mode(0o777)).expect("its mode");
    fs::write(folder.path().join("s.toml"), text(&cache)).expect("a file");
    for command in ["serve", "check"] {
        let output = run(folder.path(), &[command, "--config", "s.toml"], &[]).await;
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{command}: {error}");
        for part in ["cache.folder", "compiled has mode 0777", "chmod 700"] {
            assert!(error.contains(part), "{command}: {part}: {error}");
        }
    }
    assert!(files(&cache).is_empty());
}
