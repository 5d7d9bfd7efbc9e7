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
	// powerCutLater is when the second copy is made: long after the plan, and before the kernel
	// and nats-server sync data that no one has asked them to.
	powerCutLater = 20 * time.Second
)

// PowerCut tests that a broker loses no plan in a power failure. open starts a broker with a server for each
// path, which has its store there. PowerCut publishes a plan, and copies the disks as after a power failure,
// right after the plan and 20 s later. A broker on either copy must have all messages.
func PowerCut(t *testing.T, servers int, open func(t *testing.T, paths []string) *broker.Broker) {
	disks := make([]*Disk, servers)
	for i := range disks {
		disks[i] = NewDisk(t)
	}
	b := open(t, paths(disks))
	var want []string
	for i := range powerCutChunks {
		a := subject.NewAddress("power", "cut", "quay.io", fmt.Sprint(i+1))
		m := broker.Scheduled(subject.Plan, a, time.Now().Add(time.Hour), []byte(a.Token))
		if _, err := b.Publish(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		want = append(want, m.Subject)
	}
	now := afterPowerCut(disks)
	time.Sleep(powerCutLater)
	later := afterPowerCut(disks)
	b.Close()
	for name, disks := range map[string][]*Disk{"at once": now, "later": later} {
		t.Run(name, func(t *testing.T) {
			b := open(t, paths(disks))
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

func paths(disks []*Disk) []string {
	all := make([]string, len(disks))
	for i, d := range disks {
		all[i] = d.Path
	}
	return all
}

func afterPowerCut(disks []*Disk) []*Disk {
	all := make([]*Disk, len(disks))
	for i, d := range disks {
		all[i] = d.AfterPowerCut()
	}
	return all
}
