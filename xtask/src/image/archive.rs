//! One layer as an archive that `ctr image import`, `podman load` and `docker load` read: the layout of
//! the OCI image specification, and beside it Docker's `manifest.json` that points into it.

use anyhow::Result;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::tree::Tree;

/// Nothing in an image was made at any time.
const EPOCH: &str = "1970-01-01T00:00:00Z";

/// The archive of an image with this name and one layer, plain and compressed.
pub(super) fn image(plain: &[u8], compressed: &[u8], name: &str) -> Result<Vec<u8>> {
    let config = config(plain).to_string().into_bytes();
    let layer = blob(compressed, "application/vnd.oci.image.layer.v1.tar+gzip");
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob(&config, "application/vnd.oci.image.config.v1+json"),
        "layers": [layer],
    });
    let manifest = manifest.to_string().into_bytes();
    let mut entry = blob(&manifest, "application/vnd.oci.image.manifest.v1+json");
    entry["annotations"] = json!({
        "io.containerd.image.name": name,
        "org.opencontainers.image.ref.name": name.rsplit_once(':').map_or("latest", |(_, tag)| tag),
    });
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [entry],
    });
    let docker = json!([{
        "Config": path(&config),
        "RepoTags": [name],
        "Layers": [path(compressed)],
    }]);
    let mut tree = Tree::default();
    for contents in [&config, &manifest, &compressed.to_vec()] {
        tree.add(&path(contents), 0o644, contents.clone());
    }
    let layout = json!({"imageLayoutVersion": "1.0.0"});
    for (file, value) in [
        ("index.json", index),
        ("manifest.json", docker),
        ("oci-layout", layout),
    ] {
        tree.add(file, 0o644, value.to_string().into_bytes());
    }
    tree.tar()
}

/// What a container of the image runs.
fn config(layer: &[u8]) -> Value {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    json!({
        "architecture": architecture,
        "os": "linux",
        "created": EPOCH,
        "config": {
            "Entrypoint": ["/usr/local/bin/oxlan"],
            "Env": ["PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        },
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", digest(layer))]},
        "history": [{"created": EPOCH, "created_by": "cargo xtask image"}],
    })
}

fn blob(contents: &[u8], kind: &str) -> Value {
    json!({
        "mediaType": kind,
        "digest": format!("sha256:{}", digest(contents)),
        "size": contents.len(),
    })
}

fn path(contents: &[u8]) -> String {
    format!("blobs/sha256/{}", digest(contents))
}

fn digest(contents: &[u8]) -> String {
    let hash = Sha256::digest(contents);
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::io::Read;

    #[test]
    fn two_images_of_the_same_are_the_same_and_hold_together() {
        let one = image(b"layer", b"compressed", "localhost/oxlan:1").unwrap();
        assert_eq!(
            one,
            image(b"layer", b"compressed", "localhost/oxlan:1").unwrap()
        );
        let mut files = BTreeMap::new();
        for entry in tar::Archive::new(one.as_slice()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut contents = Vec::new();
            entry.read_to_end(&mut contents).unwrap();
            files.insert(entry.path().unwrap().display().to_string(), contents);
        }
        let read = |path: &str| -> Value { serde_json::from_slice(&files[path]).unwrap() };
        let blob = |digest: &Value| format!("blobs/{}", digest.as_str().unwrap().replace(':', "/"));
        let index = read("index.json");
        let manifest = read(&blob(&index["manifests"][0]["digest"]));
        assert_eq!(
            files[&blob(&manifest["layers"][0]["digest"])],
            b"compressed"
        );
        let config = read(&blob(&manifest["config"]["digest"]));
        let diff = format!("sha256:{}", digest(b"layer"));
        assert_eq!(config["rootfs"]["diff_ids"][0], diff);
        let docker = read("manifest.json");
        assert_eq!(docker[0]["RepoTags"][0], "localhost/oxlan:1");
        assert_eq!(
            files[docker[0]["Layers"][0].as_str().unwrap()],
            b"compressed"
        );
    }
}
