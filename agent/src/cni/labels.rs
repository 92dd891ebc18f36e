//! `CNI_ARGS`: `KEY=VALUE;KEY=VALUE`.

use super::CniError;
use crate::pods::PodLabels;

/// Reads the orchestrator's words for a pod. A key without meaning here is an error unless the
/// runtime says `IgnoreUnknown=1` (CONVENTIONS.md of CNI, "CNI_ARGS").
pub(super) fn parse(args: &str) -> Result<PodLabels, CniError> {
    let mut labels = PodLabels::default();
    let mut unknown = None;
    let mut ignore_unknown = false;
    for pair in args.split(';').filter(|p| !p.is_empty()) {
        let Some((key, value)) = pair.split_once('=') else {
            return Err(CniError::environment(
                "CNI_ARGS",
                args,
                "KEY=VALUE pairs with ; between",
            ));
        };
        let value = Some(value.to_owned()).filter(|v| !v.is_empty());
        match key {
            "K8S_POD_NAMESPACE" => labels.namespace = value,
            "K8S_POD_NAME" => labels.name = value,
            "K8S_POD_UID" => labels.uid = value,
            "K8S_POD_INFRA_CONTAINER_ID" => {}
            "IgnoreUnknown" => ignore_unknown = truth(args, value.as_deref())?,
            _ => unknown = unknown.or(Some(key)),
        }
    }
    match unknown {
        Some(key) if !ignore_unknown => {
            let allowed = format!("{key} only together with IgnoreUnknown=1");
            Err(CniError::environment("CNI_ARGS", args, &allowed))
        }
        _ => Ok(labels),
    }
}

fn truth(args: &str, value: Option<&str>) -> Result<bool, CniError> {
    match value.map(str::to_ascii_lowercase).as_deref() {
        Some("1" | "true") => Ok(true),
        None | Some("0" | "false") => Ok(false),
        Some(_) => {
            let allowed = "IgnoreUnknown with 1, true, 0 or false";
            Err(CniError::environment("CNI_ARGS", args, allowed))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kubernetes_sends() {
        let labels = parse(
            "K8S_POD_INFRA_CONTAINER_ID=abc;K8S_POD_UID=u;IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=web;X=y",
        );
        let expected = PodLabels {
            namespace: Some("ns".into()),
            name: Some("web".into()),
            uid: Some("u".into()),
        };
        assert_eq!(labels, Ok(expected));
        assert_eq!(parse(""), Ok(PodLabels::default()));
    }

    #[test]
    fn what_is_refused_names_the_variable() {
        for bad in [
            "X=y",
            "X=y;IgnoreUnknown=0",
            "nonsense",
            "IgnoreUnknown=maybe",
        ] {
            let error = parse(bad).unwrap_err();
            assert_eq!(error.code, 4, "{bad}");
            assert!(
                error.msg.contains("CNI_ARGS") && error.msg.contains(bad),
                "{error}"
            );
        }
    }
}
