package notify

import (
	"fmt"
	"io"
	"log"
	"net/url"
	"strings"

	"github.com/nicholas-fedor/shoutrrr"
	"github.com/nicholas-fedor/shoutrrr/pkg/types"

	"github.com/osism/skopeo-worker/shared/config"
	"github.com/osism/skopeo-worker/shared/redact"
)

// The values of NOTIFY_ON.
const (
	onProblems = "problems"
	onAlways   = "always"
)

// Config states which events are sent, and to which receivers.
type Config struct {
	URLs string `envconfig:"NOTIFY_URLS" desc:"where to send notifications: URLs of shoutrrr (slack://…, ntfy://…, smtp://…), or http(s) URLs that get JSON; several separated by spaces"`
	On   string `envconfig:"NOTIFY_ON" default:"problems" expect:"problems or always" desc:"problems, or always: also runs without problems"`

	receivers []receiver
}

// A part of a URL that has at least tokenLength bytes counts as a secret. In the place of the user, at
// least userLength bytes are enough.
const tokenLength, userLength = 16, 8

// Validate implements config.Validator.
func (c *Config) Validate() []error {
	var bad []error
	c.receivers = nil
	for i, text := range strings.Fields(c.URLs) {
		noteSecrets(text)
		r, err := newReceiver(text)
		if err != nil {
			bad = append(bad, config.Bad("NOTIFY_URLS", "", fmt.Sprintf("URLs of shoutrrr, or http(s) URLs; number %d is neither: %s", i+1, redact.Text(err.Error()))))
			continue
		}
		c.receivers = append(c.receivers, r)
	}
	if c.On != onProblems && c.On != onAlways {
		bad = append(bad, config.Bad("NOTIFY_ON", c.On, "problems or always"))
	}
	return bad
}

// noteSecrets adds the parts of a URL that may be secret to package redact. Many services have a token
// in the path or in the place of the user.
func noteSecrets(text string) {
	redact.Add(text)
	u, err := url.Parse(text)
	if err != nil {
		return
	}
	add := func(length int, words ...string) {
		for _, word := range words {
			if len(word) >= length {
				redact.Add(word)
			}
		}
	}
	add(tokenLength, strings.Split(u.Path, "/")...)
	for _, values := range u.Query() {
		add(tokenLength, values...)
	}
	if u.User != nil {
		password, _ := u.User.Password()
		redact.AddLogin(u.User.Username(), password)
		add(userLength, strings.Split(u.User.Username(), ":")...)
	}
}

// receiver is a destination of notifications.
type receiver struct {
	service string // slack, smtp, https
	send    func(event) error
	key     string // hash of the URL, part of keys in the bucket
}

func newReceiver(text string) (receiver, error) {
	u, err := url.Parse(text)
	if err != nil {
		return receiver{}, fmt.Errorf("not a URL")
	}
	r := receiver{service: u.Scheme, key: hash(text)}
	switch {
	case u.Scheme == "http" || u.Scheme == "https":
		if u.Host == "" {
			return r, fmt.Errorf("a URL without a host")
		}
		r.send = func(e event) error { return post(text, e) }
		return r, nil
	case u.Scheme == "logger" || u.Scheme == "":
		return r, fmt.Errorf("a URL without a service")
	}
	sender, err := shoutrrr.NewSender(log.New(io.Discard, "", 0), text)
	if err != nil {
		return r, err
	}
	r.send = func(e event) error {
		for _, err := range sender.Send(e.Text, &types.Params{"title": e.Title}) {
			if err != nil {
				return err
			}
		}
		return nil
	}
	return r, nil
}
