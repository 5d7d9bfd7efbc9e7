package selection

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// day is a day of an Age: always 24 hours.
const day = 24 * time.Hour

// Age is how long a tag has had its digest. The zero value stands for none.
type Age time.Duration

// ParseAge parses days ("90d"), or a duration as time.ParseDuration does ("36h"). The age must be more
// than 0.
func ParseAge(s string) (Age, error) {
	age, err := time.ParseDuration(s)
	if days, ok := strings.CutSuffix(s, "d"); ok {
		var n uint64
		n, err = strconv.ParseUint(days, 10, 16)
		age = time.Duration(n) * day
	}
	if err != nil || age <= 0 {
		return 0, fmt.Errorf("%q is not an age, expected days such as 90d or a duration such as 36h, more than 0", s)
	}
	return Age(age), nil
}

// String returns the age in the form that ParseAge reads; "" for none.
func (a Age) String() string {
	switch d := time.Duration(a); {
	case d == 0:
		return ""
	case d%day == 0:
		return strconv.FormatInt(int64(d/day), 10) + "d"
	default:
		return d.String()
	}
}

// MarshalText implements encoding.TextMarshaler.
func (a Age) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText is ParseAge, except that an empty text gives the zero value.
func (a *Age) UnmarshalText(text []byte) (err error) {
	*a = 0
	if len(text) > 0 {
		*a, err = ParseAge(string(text))
	}
	return err
}
