package charttest

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"
	"github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/util/teststorage"
	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"
)

// step is the time between two points of a series, and between two evaluations.
const step = 10 * time.Minute

// alerting is a rule of the chart, with the time series to evaluate.
type alerting struct {
	group *rules.Group
	alert *rules.AlertingRule
	now   time.Time
}

// newAlerting loads a rule of the chart and the series of a script. It evaluates them with the
// package behind promtool test rules, so that for, labels and annotations are evaluated, too.
// promtool itself would add every service discovery of Prometheus to the dependencies.
func newAlerting(t *testing.T, name, script string) *alerting {
	t.Helper()
	rule := find[*monitoring.PrometheusRule](t, render(t, least, "metrics: {rules: {enabled: true, maxAgeHours: 36}}"), "worker")
	rule.Spec.Groups[0].Rules = slices.DeleteFunc(rule.Spec.Groups[0].Rules, func(r monitoring.Rule) bool { return r.Alert != "SkopeoWorker"+name })
	file := filepath.Join(t.TempDir(), "rules.yaml")
	text, err := yaml.Marshal(rule.Spec)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, text, 0o600))

	// Points are further apart than Prometheus' look-back of five minutes.
	const lookback = step + time.Minute
	storage := promqltest.LoadedStorage(t, script) // because results of rules are older than the latest points
	engine := promqltest.NewTestEngine(t, false, lookback, promqltest.DefaultMaxSamplesPerQuery)
	manager := rules.NewManager(&rules.ManagerOptions{
		QueryFunc: rules.EngineQueryFunc(engine, storage), AppendableV2: teststorage.New(t), Context: t.Context(),
		NotifyFunc: func(context.Context, string, ...*rules.Alert) {},
		Logger:     slog.New(slog.DiscardHandler), Parser: parser.NewParser(parser.Options{}),
	})
	groups, errs := manager.LoadGroups(step, labels.EmptyLabels(), "", nil, false, file)
	require.Empty(t, errs)
	require.Len(t, groups, 1)
	for _, g := range groups {
		require.Len(t, g.AlertingRules(), 1, "no alert "+name)
		alert := g.AlertingRules()[0]
		alert.SetRestored(true)
		return &alerting{group: g, alert: alert, now: time.Unix(0, 0)}
	}
	return nil
}

// firing evaluates the rule up to a time, and returns the alerts that fire then.
func (a *alerting) firing(t *testing.T, until time.Duration) (alerts []*rules.Alert) {
	t.Helper()
	for ; !a.now.After(time.Unix(0, 0).Add(until)); a.now = a.now.Add(step) {
		a.group.Eval(t.Context(), a.now)
	}
	require.NoError(t, a.alert.LastError())
	for _, alert := range a.alert.ActiveAlerts() {
		if alert.State == rules.StateFiring {
			alerts = append(alerts, alert)
		}
	}
	return alerts
}

// TestAlertsFire evaluates the rules as Prometheus does, over nine days. The series come from
// another pod each day, or on some days from none.
func TestAlertsFire(t *testing.T) {
	const hour, day = time.Hour, 24 * time.Hour
	type values map[string]string // of metrics, with labels if they are not those of the alert
	label := func(alert string) string {
		if alert == "BudgetExhausted" {
			return `registry="docker.io"`
		}
		return `mirror="default"`
	}
	today := func(day int) string { return fmt.Sprint(day * 86400) }
	for name, test := range map[string]struct {
		alert string
		day   func(day int) values
		fires map[time.Duration]string // at a time, with the value; if empty, it does not fire
	}{
		"runs every day, and never a success": {
			alert: "RunTooOld",
			day:   func(day int) values { return values{"last_run_timestamp_seconds": today(day)} },
			fires: map[time.Duration]string{30 * hour: "", 40 * hour: "144000", 8 * day: "691200"},
		},
		"a success every day": {
			alert: "RunTooOld",
			day: func(day int) values {
				return values{"last_run_timestamp_seconds": today(day), "last_success_timestamp_seconds": today(day)}
			},
			fires: map[time.Duration]string{30 * hour: "", 8 * day: ""},
		},
		"a success on the first day only": {
			alert: "RunTooOld",
			day: func(day int) values {
				return values{"last_run_timestamp_seconds": today(day), "last_success_timestamp_seconds": "3600"}
			},
			fires: map[time.Duration]string{30 * hour: "", 40 * hour: "140400", 8 * day: "687600"},
		},
		"failures, and then no worker": {
			alert: "ImagesFailing",
			day: func(day int) values {
				if day > 0 {
					return nil
				}
				return values{"failed_images": "3"}
			},
			fires: map[time.Duration]string{2 * hour: "3", 40 * hour: "3", 8 * day: ""},
		},
		"a spent budget, and chunks that wait for it": {
			alert: "BudgetExhausted",
			day: func(int) values {
				return values{"budget_free_pulls": "0", "registry_snoozed_chunks": "2"}
			},
			fires: map[time.Duration]string{10 * hour: "0", 8*day + 10*hour: "0"},
		},
		"a spent budget, and no chunk that waits for it": {
			alert: "BudgetExhausted",
			day: func(int) values {
				return values{"budget_free_pulls": "0", "registry_snoozed_chunks": "0"}
			},
			fires: map[time.Duration]string{10 * hour: "", 8 * day: ""},
		},
		"an image fails for a while": {
			alert: "ImagesFailing",
			day:   func(int) values { return values{"failed_images": "1"} },
			fires: map[time.Duration]string{30 * time.Minute: "", 2 * hour: "1"},
		},
		"an immutable tag that moves on the second day": {
			alert: "ImmutableTagMoved",
			day: func(day int) values {
				kept := "0"
				if day == 1 {
					kept = "2"
				}
				return values{`run_images{mirror="default",outcome="kept"}`: kept}
			},
			fires: map[time.Duration]string{20 * hour: "", 26 * hour: "2", 50 * hour: ""},
		},
		"a lost run, and a new one the next day": {
			alert: "RunLost",
			day: func(day int) values {
				lost := "0"
				if day == 0 {
					lost = "1"
				}
				return values{`run_state{mirror="default",state="lost"}`: lost}
			},
			fires: map[time.Duration]string{2 * hour: "1", 23 * hour: "1", 26 * hour: ""},
		},
		"a registry that stays closed": {
			alert: "RegistryClosed",
			day:   func(int) values { return values{`registry_closed{registry="quay.io"}`: "1"} },
			fires: map[time.Duration]string{30 * time.Minute: "", 2 * hour: "1"},
		},
		"a chunk that no worker takes": {
			alert: "ChunkOverdue",
			day:   func(int) values { return values{`oldest_due_chunk_timestamp_seconds{}`: "3600"} },
			fires: map[time.Duration]string{6 * hour: "", 8 * hour: "25200"},
		},
		"a broker that is away on the second day": {
			alert: "BrokerDown",
			day: func(day int) values {
				if day == 1 {
					return values{`broker_up{}`: "0"}
				}
				return values{`broker_up{}`: "1"}
			},
			fires: map[time.Duration]string{20 * hour: "", 26 * hour: "0", 50 * hour: ""},
		},
		"no worker on the second day": {
			alert: "Absent",
			day: func(day int) values {
				if day == 1 {
					return nil
				}
				return values{`build_info{version="1.2.3"}`: "1"}
			},
			fires: map[time.Duration]string{20 * hour: "", 26 * hour: "1", 50 * hour: ""},
		},
		"failures that are gone when the next pod runs": {
			alert: "ImagesFailing",
			day: func(day int) values {
				if day == 0 {
					return values{"failed_images": "3"}
				}
				return values{"failed_images": "0"}
			},
			fires: map[time.Duration]string{2 * hour: "3", 25 * hour: "", 8 * day: ""},
		},
	} {
		t.Run(name, func(t *testing.T) {
			const points = int(day / step)
			var script strings.Builder
			for today := range 9 {
				fmt.Fprintf(&script, "\nload %s\n", step)
				for metric, value := range test.day(today) {
					if !strings.HasSuffix(metric, "}") {
						metric += "{" + label(test.alert) + "}"
					}
					fmt.Fprintf(&script, "  skopeo_worker_%snamespace=\"mirrors\",pod=\"%d\"} ", strings.Replace(strings.TrimSuffix(metric, "}")+",", "{,", "{", 1), today)
					if today > 0 {
						fmt.Fprintf(&script, "_x%d ", today*points)
					}
					fmt.Fprintf(&script, "%s+0x%d stale\n", value, points-2)
				}
			}
			a := newAlerting(t, test.alert, script.String())
			for _, when := range slices.Sorted(maps.Keys(test.fires)) {
				alerts := a.firing(t, when)
				if test.fires[when] == "" {
					require.Empty(t, alerts, when)
					continue
				}
				require.Len(t, alerts, 1, when)
				require.Equal(t, test.fires[when], fmt.Sprint(alerts[0].Value), when)
				require.NotEmpty(t, alerts[0].Labels.Get("severity"))
				for _, name := range []string{"summary", "description"} {
					require.NotRegexp(t, "^$|{{|<error|%!", alerts[0].Annotations.Get(name), name)
				}
			}
		})
	}
}
