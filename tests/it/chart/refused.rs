//! Values that must be refused, each with the sentence that says why.

use super::helm::{Helm, values};
use crate::harness::Folder;

const LABELS: &str = "labels of app.kubernetes.io and longshore.dev are set by the chart";

/// `(values over those of the example squad, what is said)`.
const REFUSED: &[(&str, &str)] = &[
    (
        "pools: {postprocess: {autoscaling: {enabled: true, type: hpa, maxReplicas: 2, cpuUtilization: 50}}}",
        "a pinned pool is never scaled: a scale-down would end what must not be interrupted",
    ),
    (
        "pools: {postprocess: {rollout: {maxSurge: 1}}}",
        "a pinned pool has no surge: with more busy pods than replicas its budget would let some be evicted",
    ),
    (
        "pools: {postprocess: {podDisruptionBudget: {maxUnavailable: 1}}}",
        "a pinned pool has the busy budget already: an eviction fails where two budgets match a pod",
    ),
    (
        "pools: {postprocess: {budget: 5m}}",
        "an attempt of a pinned pool may take its time",
    ),
    (
        "pools: {postprocess: {overrunQueue: x}}",
        "an attempt of a pinned pool never overruns",
    ),
    // A label that an own selector or budget names.
    (
        "pools: {postprocess: {podLabels: {longshore.dev/busy: 'true'}}}",
        LABELS,
    ),
    (
        "pools: {fetch: {podLabels: {app.kubernetes.io/instance: other}}}",
        LABELS,
    ),
    (
        "poolDefaults: {podLabels: {longshore.dev/busy: 'true'}}",
        LABELS,
    ),
    ("pools: {fetch: {replica: 1}}", "replica"),
    ("image: {tags: x}", "tags"),
    ("zoo: 1", "zoo"),
    ("pools: {fetch: {kind: pined}}", "kind"),
    ("pools: {fetch: {queues: []}}", "queues"),
    ("pools: {Fetch: {kind: pinned, queues: [a]}}", "Fetch"),
    (
        "pools: {fetch: {terminationGracePeriodSeconds: 601}}",
        "terminationGracePeriodSeconds is at most 600 where a pool is scaled",
    ),
    (
        "pools: {fetch: {budget: 59s}}",
        "budget is more than a stopping worker has",
    ),
    (
        "pools: {fetch: {autoscaling: {minReplicas: 21}}}",
        "autoscaling.minReplicas is more than maxReplicas",
    ),
    (
        "pools: {fetch: {autoscaling: {type: hpa, keda: null, cpuUtilization: 50}}}",
        "autoscaling by hpa never ends at no pod",
    ),
    (
        "pools: {fetch: {autoscaling: {keda: {rabbitmq: null, postgresql: null}}}}",
        "autoscaling by keda needs keda.rabbitmq or keda.postgresql",
    ),
    (
        "pools: {postprocess: {enabled: false}, fetch: {enabled: false}}",
        "pools has no pool: see ci/embedded-values.yaml and ci/squad-values.yaml",
    ),
    (
        "embedded: {enabled: true}",
        "embedded.enabled sets store and broker: remove [broker] and store.url from config",
    ),
    (
        "{embedded: {enabled: true}, config: ''}",
        "embedded.enabled needs exactly one pool, pinned and with at most one replica",
    ),
    (
        "config: ''",
        "pods share no files, so the store is PostgreSQL",
    ),
    (
        "config: \"[store]\\nurl = 'postgres://u@h/d'\"",
        "the broker is RabbitMQ: write [broker] url",
    ),
    ("config: '[store'", "config is no TOML"),
    (
        "config: \"[pools.x]\\nkind = 'pinned'\"",
        "config has pools, which comes from the value pools: remove it there",
    ),
    (
        "config: \"[worker]\\ngrace = '5m'\"",
        "config has worker.grace, which comes from terminationGracePeriodSeconds of the pool",
    ),
    (
        "config: \"[http]\\nlisten = '[::]:80'\"",
        "config has http.listen, which comes from the value http.port",
    ),
    (
        "config: \"[api]\\nlisten = '[::]:80'\"",
        "config has api, which comes from the value api: remove it there",
    ),
    (
        "config: \"[bundle]\\nname = 'x'\"",
        "config has bundle, which comes from the value bundle: remove it there",
    ),
    (
        "bundle: {enabled: true}",
        "bundle.enabled needs bundle.name",
    ),
    (
        "bundle: {sources: {a: {configMap: b}}}",
        "bundle.sources mean nothing without bundle.enabled",
    ),
    (
        "bundle: {enabled: true, name: x, sources: {a: {configMap: b}, c: {files: {d: e}}}}",
        "no mark makes one set: give all of them files, or none",
    ),
    (
        "bundle: {enabled: true, name: x, quietMin: 30s}",
        "bundle.quietMin is more than bundle.quietMax",
    ),
    (
        "bundle: {sources: {a: {configMap: b, subPath: c}}}",
        "subPath",
    ),
    ("bundle: {sources: {a: {files: {.bundle: x}}}}", ".bundle"),
    ("bundle: {name: ../x}", "name"),
    (
        "api: {enabled: true}",
        "with testjobs.store = \"squad\", SQUAD's own web server answers producers",
    ),
    (
        "{api: {enabled: true}, embedded: {enabled: true}, config: '', pools: {fetch: {enabled: false}, postprocess: {replicas: 1}}}",
        "api.enabled needs a store that several pods share",
    ),
    (
        "{api: {enabled: true, ingress: {enabled: true}}}",
        "api.ingress has no hosts",
    ),
    (
        "{api: {enabled: true}, config: \"[store]\\nurl = 'postgres://u@h/d'\\n[broker]\\nurl = 'amqp://h'\", pools: {api: {kind: pinned, queues: [a]}}}",
        "pools.api would have the name of the api's Deployment",
    ),
    ("api: {tokens: {ci: {existingSecret: a}}}", "key"),
    (
        "api: {tokens: {ci: {existingSecret: a, key: b, projects: [lab]}}}",
        "projects",
    ),
    ("api: {podLabels: {longshore.dev/busy: 'true'}}", LABELS),
    (
        "{api: {enabled: true, podDisruptionBudget: {maxUnavailable: 0}}}",
        "api.podDisruptionBudget lets no pod go",
    ),
    (
        "{api: {enabled: true, podDisruptionBudget: {minAvailable: 2}}}",
        "api.podDisruptionBudget lets no pod go",
    ),
    (
        "{api: {enabled: true, podDisruptionBudget: {minAvailable: 100%}}}",
        "api.podDisruptionBudget lets no pod go",
    ),
    (
        "fullnameOverride: a-name-that-leaves-no-room-for-what-is-put-behind-it",
        "longer than the 52 letters that Kubernetes leaves a pool; set fullnameOverride",
    ),
    (
        "kubernetes: {enabled: false}",
        "kubernetes.admissionPolicy guards what kubernetes.enabled permits",
    ),
    (
        "serviceAccount: {create: false}",
        "kubernetes.admissionPolicy binds all that use the workers' service account",
    ),
];

/// Each value is refused by `helm`, with its sentence.
fn refuses(helm: Helm) {
    let folder = Folder::new();
    let file = folder.join("values.yaml");
    for (text, sentence) in REFUSED {
        std::fs::write(&file, text).unwrap();
        match helm.render(&[&values("squad"), &file], &[]) {
            Ok(_) => panic!("{text} was accepted"),
            Err(said) => assert!(said.contains(sentence), "{text}: {said}"),
        }
    }
    // None of it is refused for another value's sake.
    helm.render(&[&values("squad")], &[]).unwrap();
}

#[test]
fn helm_3_refuses_what_would_end_work_or_never_start() {
    refuses(Helm::Three);
}

#[test]
fn helm_4_refuses_what_would_end_work_or_never_start() {
    refuses(Helm::Four);
}
