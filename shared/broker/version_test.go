package broker

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCheckVersion(t *testing.T) {
	for version, ok := range map[string]bool{
		"2.14.0": true, "2.14.0-RC.1": true, "2.15.2": true, "2.100.0": true, "3.0.0": true,
		"2.13.9": false, "1.99.0": false, "0.14.0": false, "": false, "2": false, "two.14.0": false, "2.x.0": false,
	} {
		err := checkVersion(version)
		if ok {
			require.NoError(t, err, version)
		} else {
			require.ErrorIs(t, err, ErrTooOld, version)
			require.ErrorContains(t, err, version)
		}
	}
}
