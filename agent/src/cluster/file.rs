//! The TOML file as a source.

use std::io;
use std::path::{Path, PathBuf};

use super::follow::{FollowError, Followed};
use super::parse::{self, ParseError};
use super::{ClusterConfig, ClusterError, NextVersion, Source};

/// A cluster file, watched.
pub struct FileSource {
    file: Followed,
    own: String,
}

impl FileSource {
    /// The file at `path`, as seen by the node `own`. Nothing is read yet.
    #[must_use]
    pub fn new(path: PathBuf, own: String) -> Self {
        Self {
            file: Followed::new(path),
            own,
        }
    }

    async fn next_version(&mut self) -> Result<ClusterConfig, ClusterError> {
        let text = self.file.next().await.map_err(|error| match error {
            FollowError::Read { path, source } => ClusterError::Read { path, source },
            FollowError::Watch { path, source } => ClusterError::Watch { path, source },
        })?;
        interpret(&text, self.file.path(), &self.own)
    }
}

impl Source for FileSource {
    fn describe(&self) -> String {
        format!("file {}", self.file.path().display())
    }

    fn next(&mut self) -> NextVersion<'_> {
        Box::pin(self.next_version())
    }
}

fn interpret(text: &[u8], path: &Path, own: &str) -> Result<ClusterConfig, ClusterError> {
    let path = path.to_owned();
    let text = match std::str::from_utf8(text) {
        Ok(text) => text,
        Err(error) => {
            let source = io::Error::new(io::ErrorKind::InvalidData, error);
            return Err(ClusterError::Read { path, source });
        }
    };
    parse::parse(text, own).map_err(|error| match error {
        ParseError::Syntax(source) => ClusterError::Syntax { path, source },
        ParseError::Invalid(problems) => ClusterError::Invalid { path, problems },
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::follow::SETTLE;
    use super::*;

    const FIRST: &str = r#"
[network]
pod_cidrs = ["10.244.0.0/16"]
[[node]]
name = "a"
pod_cidrs = ["10.244.1.0/24"]
underlay = "192.168.50.1"
"#;

    fn with_vni(vni: u32) -> String {
        FIRST.replace("[network]", &format!("[network]\nvni = {vni}"))
    }

    async fn next_vni(source: &mut FileSource) -> u32 {
        let next = tokio::time::timeout(Duration::from_secs(5), source.next());
        next.await.expect("a change").unwrap().network.vni.get()
    }

    #[tokio::test]
    async fn every_way_to_change_a_file_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cluster.toml");
        std::fs::write(&path, FIRST).unwrap();
        let mut source = FileSource::new(path.clone(), "a".into());
        assert_eq!(next_vni(&mut source).await, 1);

        std::fs::write(&path, with_vni(2)).unwrap();
        assert_eq!(next_vni(&mut source).await, 2, "written in place");

        let fresh = directory.path().join("fresh");
        std::fs::write(&fresh, with_vni(3)).unwrap();
        std::fs::rename(&fresh, &path).unwrap();
        assert_eq!(next_vni(&mut source).await, 3, "replaced by a rename");

        std::fs::remove_file(&path).unwrap();
        let gone = source.next().await.unwrap_err();
        assert!(matches!(gone, ClusterError::Read { .. }), "{gone}");
        std::fs::write(&path, with_vni(4)).unwrap();
        assert_eq!(next_vni(&mut source).await, 4, "removed and made again");
    }

    #[tokio::test]
    async fn half_of_a_file_is_not_read() {
        use std::io::Write;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cluster.toml");
        std::fs::write(&path, FIRST).unwrap();
        let mut source = FileSource::new(path.clone(), "a".into());
        next_vni(&mut source).await;
        let mut file = std::fs::File::create(&path).unwrap();
        file.write_all(with_vni(2).as_bytes()).unwrap();
        let half = tokio::time::timeout(Duration::from_millis(100), source.next());
        assert!(half.await.is_err(), "somebody is still writing");
        let other = "[[node]]\nname = \"b\"\npod_cidrs = [\"10.244.2.0/24\"]\nunderlay = \"192.168.50.2\"\n";
        file.write_all(other.as_bytes()).unwrap();
        drop(file);
        let next = tokio::time::timeout(Duration::from_secs(5), source.next()).await;
        assert_eq!(next.unwrap().unwrap().nodes.len(), 2);
    }

    #[tokio::test]
    async fn a_file_that_is_linked_into_its_place_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::write(at("fresh"), with_vni(3)).unwrap();
        let mut source = FileSource::new(at("cluster.toml"), "a".into());
        source.next().await.unwrap_err();
        std::fs::hard_link(at("fresh"), at("cluster.toml")).unwrap();
        assert_eq!(next_vni(&mut source).await, 3);
    }

    #[tokio::test]
    async fn a_change_is_not_lost_when_nobody_waits_for_its_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cluster.toml");
        std::fs::write(&path, FIRST).unwrap();
        let mut source = FileSource::new(path.clone(), "a".into());
        next_vni(&mut source).await;
        std::fs::write(&path, with_vni(2)).unwrap();
        let cut_short = tokio::time::timeout(SETTLE / 5, source.next()).await;
        assert!(cut_short.is_err(), "it settles first");
        assert_eq!(next_vni(&mut source).await, 2);
    }

    #[tokio::test]
    async fn a_link_on_the_way_may_be_replaced() {
        // As a ConfigMap is mounted: cluster.toml -> ..data/cluster.toml, ..data -> ..1
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for (version, vni) in [("..1", 1), ("..2", 2)] {
            std::fs::create_dir(at(version)).unwrap();
            std::fs::write(at(version).join("cluster.toml"), with_vni(vni)).unwrap();
        }
        std::os::unix::fs::symlink("..1", at("..data")).unwrap();
        std::os::unix::fs::symlink("..data/cluster.toml", at("cluster.toml")).unwrap();
        let mut source = FileSource::new(at("cluster.toml"), "a".into());
        assert_eq!(next_vni(&mut source).await, 1);
        std::os::unix::fs::symlink("..2", at("..tmp")).unwrap();
        std::fs::rename(at("..tmp"), at("..data")).unwrap();
        assert_eq!(next_vni(&mut source).await, 2);
    }

    #[tokio::test]
    async fn an_invalid_version_is_reported_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cluster.toml");
        std::fs::write(&path, FIRST).unwrap();
        let mut source = FileSource::new(path.clone(), "a".into());
        next_vni(&mut source).await;
        std::fs::write(&path, with_vni(1 << 24)).unwrap();
        let error = source.next().await.unwrap_err();
        assert!(error.to_string().contains("vni = 16777216"), "{error}");
        let again = tokio::time::timeout(Duration::from_millis(100), source.next());
        assert!(again.await.is_err(), "nothing has changed since");
        std::fs::write(&path, with_vni(7)).unwrap();
        assert_eq!(next_vni(&mut source).await, 7);
    }
}
