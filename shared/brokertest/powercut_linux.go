package brokertest

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/osism/skopeo-worker/shared/broker"
	"github.com/osism/skopeo-worker/shared/subject"
)

const (
	powerCutChunks = 20
	// powerCutLater is when a second copy is taken: long after a plan, and before the
	// kernel and nats-server sync by themselves what nobody has asked them to.
	powerCutLater = 20 * time.Second
)

// PowerCut stores a plan on a broker whose store is on a disk of its own, cuts the
// power at once and once more 20 s later, and requires of both disks that the broker
// started on them has every message. open starts the broker with its store below a path.
func PowerCut(t *testing.T, open func(t *testing.T, path string) *broker.Broker) {
	disk := NewDisk(t)
	b := open(t, disk.Path)
	var want []string
	for i := range powerCutChunks {
		a := subject.NewAddress("power", "cut", "quay.io", fmt.Sprint(i+1))
		m := broker.Scheduled(subject.Plan, a, time.Now().Add(time.Hour), []byte(a.Token))
		if _, err := b.Publish(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		want = append(want, m.Subject)
	}
	now := disk.AfterPowerCut()
	time.Sleep(powerCutLater)
	later := disk.AfterPowerCut()
	for name, disk := range map[string]*Disk{"at once": now, "later": later} {
		t.Run(name, func(t *testing.T) {
			b := open(t, disk.Path)
			info, err := b.Stream.Info(t.Context(), jetstream.WithSubjectFilter(subject.Plan+".>"))
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range want {
				if info.State.Subjects[s] != 1 {
					t.Fatalf("%s is lost: there are %d of %d messages", s, len(info.State.Subjects), len(want))
				}
			}
		})
	}
}
