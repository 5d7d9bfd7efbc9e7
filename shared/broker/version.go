package broker

import (
	"fmt"
	"strconv"
	"strings"
)

// The first server whose schedules, atomic batches and message TTLs work
// together as the system needs them.
const (
	minMajor = 2
	minMinor = 14
)

func checkVersion(version string) error {
	parts := strings.SplitN(version, ".", 3)
	if len(parts) == 3 {
		major, err1 := strconv.Atoi(parts[0])
		minor, err2 := strconv.Atoi(parts[1])
		if err1 == nil && err2 == nil && (major > minMajor || major == minMajor && minor >= minMinor) {
			return nil
		}
	}
	return fmt.Errorf("%w: nats-server %s, needed is %d.%d or newer", ErrTooOld, version, minMajor, minMinor)
}
