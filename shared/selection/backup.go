package selection

import (
	"crypto/sha256"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/osism/skopeo-worker/shared/reference"
)

const (
	// backupTime is the form of {date} in the name of a backup.
	backupTime = "20060102-150405"
	// Backups is the default number of backups of a tag.
	Backups = 3
	// backupHex is how many hex digits of a digest {digest} stands for, as in a DestinationTag.
	backupHex = 12
	// minRoom is how many characters of the name of a backup must be left for the tag.
	minRoom = 32
	// hashHex is how many hex digits of a hash replace the end of a long tag.
	hashHex = 12
	// maxTagLength is the length of the longest tag (OCI distribution specification, "Pulling
	// manifests").
	maxTagLength = 128
)

// placeholder matches a placeholder in a template.
var placeholder = regexp.MustCompile(`\{[^{}]*\}`)

// Backup is how replaced images of a tag are kept at the destination: under which other tags, and how
// many. The zero value keeps none.
type Backup struct {
	// Template is the tag of a backup, with the placeholders {tag}, {date} (of the replacement)
	// and {digest} (of the replaced image).
	Template string `json:"template"`
	// Keep is how many backups of a tag are kept at most.
	Keep int `json:"keep"`
}

// IsZero reports whether nothing is kept.
func (b Backup) IsZero() bool { return b == Backup{} }

// Validate returns why the template or the number is not valid, or nil.
func (b Backup) Validate() error {
	for _, found := range placeholder.FindAllString(b.Template, -1) {
		if found != "{tag}" && found != "{date}" && found != "{digest}" {
			return fmt.Errorf("%q has %s, expected {tag}, {date} and {digest}", b.Template, found)
		}
	}
	if !strings.Contains(b.Template, "{tag}") || b.Template == "{tag}" {
		return fmt.Errorf("%q is not the template of a backup, expected {tag} and something else, as in {tag}-{date}", b.Template)
	}
	name := b.fill("latest", time.Time{}, strings.Repeat("0", backupHex))
	if _, err := reference.ParseTag(name); err != nil {
		return fmt.Errorf("%q does not make a tag: %q", b.Template, name)
	}
	if b.room(time.Time{}, strings.Repeat("0", backupHex)) < minRoom {
		return fmt.Errorf("%q leaves too little room for the tag itself", b.Template)
	}
	if b.Keep < 1 {
		return fmt.Errorf("%d backups, expected 1 or more", b.Keep)
	}
	return nil
}

// Name returns the tag of a backup: of the image with the digest, which is replaced at the given time. If
// the tag is too long, a hash of it replaces its end, so that two long tags have different backups.
func (b Backup) Name(tag reference.Tag, digest reference.Digest, at time.Time) (reference.Tag, error) {
	hex := digest.Hex()[:backupHex]
	text := tag.String()
	if room := b.room(at, hex); len(text) > room {
		sum := sha256.Sum256([]byte(text))
		end := "-" + fmt.Sprintf("%x", sum)[:hashHex]
		text = text[:room-len(end)] + end
	}
	return reference.ParseTag(b.fill(text, at, hex))
}

// room returns the length that is left for the tag in the name of a backup.
func (b Backup) room(at time.Time, hex string) int {
	return (maxTagLength - len(b.fill("", at, hex))) / strings.Count(b.Template, "{tag}")
}

func (b Backup) fill(tag string, at time.Time, hex string) string {
	return strings.NewReplacer("{tag}", tag, "{date}", at.UTC().Format(backupTime), "{digest}", hex).Replace(b.Template)
}
