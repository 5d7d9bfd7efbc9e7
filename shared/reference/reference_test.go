package reference_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/osism/skopeo-worker/shared/reference"
)

const (
	hex64     = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	digest256 = "sha256:" + hex64
	digest512 = "sha512:" + hex64 + hex64
)

func TestParse(t *testing.T) {
	hub := func(path string) reference.Reference {
		return reference.Reference{Repository: reference.MustRepository("docker.io/" + path)}
	}
	for text, want := range map[string]reference.Reference{
		"nginx":                              hub("library/nginx"),
		"osism/x":                            hub("osism/x"),
		"docker.io/nginx":                    hub("library/nginx"),
		"Docker.IO/nginx":                    hub("library/nginx"),
		"index.docker.io/library/nginx":      hub("library/nginx"),
		"registry-1.docker.io/nginx":         hub("library/nginx"),
		"registry-1.docker.io/library/nginx": hub("library/nginx"),
		"quay.io/osism/a/b/c_d__e--f.g":      {Repository: reference.MustRepository("quay.io/osism/a/b/c_d__e--f.g")},
		"QUAY.io/osism/x:V1.0_rc-1":          {Repository: reference.MustRepository("quay.io/osism/x"), Tag: reference.MustTag("V1.0_rc-1")},
		"127.0.0.1:5000/x:1@" + digest256:    {Repository: reference.MustRepository("127.0.0.1:5000/x"), Tag: reference.MustTag("1"), Digest: reference.MustDigest(digest256)},
		"localhost/x@" + digest512:           {Repository: reference.MustRepository("localhost/x"), Digest: reference.MustDigest(digest512)},
		"registry:65535/x":                   {Repository: reference.MustRepository("registry:65535/x")},
		"[FD00::1]:5000/x":                   {Repository: reference.MustRepository("[fd00::1]:5000/x")},
		"[::1]/x":                            {Repository: reference.MustRepository("[::1]/x")},
		"nginx:" + strings.Repeat("t", 128):  {Repository: reference.MustRepository("docker.io/library/nginx"), Tag: reference.MustTag(strings.Repeat("t", 128))},
	} {
		t.Run(text, func(t *testing.T) {
			got, err := reference.Parse(text)
			require.NoError(t, err)
			require.Equal(t, want, got)
			again, err := reference.Parse(got.String())
			require.NoError(t, err)
			require.Equal(t, want, again)
		})
	}
}

func TestParseExplains(t *testing.T) {
	for text, want := range map[string]string{
		"":                                    `invalid reference "": it is empty`,
		" nginx":                              "white space",
		"ngi\nnx":                             "white space",
		"ngin\x00x":                           `'\x00'`,
		"ngïnx":                               `'ï'`,
		"https://quay.io/osism/x":             "write host/path without https://",
		"docker://quay.io/osism/x":            "without docker://",
		"quay.io:0/osism/x":                   `port "0" is invalid, expected a number from 1 to 65535`,
		"quay.io:65536/osism/x":               `port "65536" is invalid`,
		"quay.io:http/osism/x":                `port "http" is invalid`,
		"quay.io:/osism/x":                    `port "" is invalid`,
		"quay.io:0443/osism/x":                `port "0443" is invalid`,
		"quay_io.example/x":                   `"quay_io.example" is not a host name`,
		"quay..io/x":                          `"quay..io" is not a host name`,
		"10.0.0.256/x":                        `"10.0.0.256" is not a host name`,
		"[::1/x":                              `"[::1" is not a host name`,
		"[:::1]:5000/x":                       `"[:::1]" is not a host name`,
		"[::1]5000x/x":                        `port "5000x" is invalid`,
		strings.Repeat("a.", 127) + "a/x":     "is not a host name",
		"quay.io/Osism/x":                     "lower case",
		"Osism/x":                             "lower case",
		"quay.io/":                            "repository name is missing",
		"quay.io//x":                          "slash with nothing",
		"quay.io/osism/x/":                    "slash with nothing",
		"quay.io/-osism/x":                    `"-osism" is invalid in a repository name`,
		"quay.io/os..ism/x":                   `"os..ism" is invalid`,
		hex64:                                 "image id",
		"quay.io/" + strings.Repeat("a", 248): "longer than 255 characters",
		"quay.io/osism/x:":                    "the tag after the colon is missing",
		"quay.io/osism/x:-1":                  `tag "-1" is invalid`,
		"quay.io/osism/x:1:2":                 `tag "1:2" is invalid`,
		"quay.io/osism/x:1/2":                 `tag "1/2" is invalid`,
		"quay.io/osism/x:" + strings.Repeat("t", 129):    "tag is longer than 128",
		"quay.io/osism/x@sha256:abc":                     `digest "sha256:abc" is invalid, expected sha256: and 64`,
		"quay.io/osism/x@sha256:" + hex64[1:]:            "is invalid",
		"quay.io/osism/x@" + strings.ToUpper(digest256):  "only a digest may follow an @",
		"quay.io/osism/x@md5:" + hex64[:32]:              "only a digest may follow an @, expected sha256:",
		"quay.io/osism/x@" + digest256 + "@" + digest256: "only a digest may follow an @",
	} {
		t.Run(text, func(t *testing.T) {
			_, err := reference.Parse(text)
			require.ErrorIs(t, err, reference.ErrInvalid)
			require.ErrorContains(t, err, want)
			require.NotContains(t, err.Error(), "\n")
			require.Less(t, len(err.Error()), 500)
		})
	}
}

func TestErrorsHideCredentials(t *testing.T) {
	for _, text := range []string{
		"user:s3cret@quay.io/osism/x",
		"user:s3cret@quay.io",
		"user:s3cret@registry:5000/x",
		"user:s3cret/more@registry:50",
		"user:s3cret!@host:50",
		"s3cret@user:pw@quay.io/x@" + digest256,
		"https://user:s3cret@quay.io/osism/x",
		"user:s3cret@quay.io/white space",
	} {
		_, err := reference.Parse(text)
		require.ErrorIs(t, err, reference.ErrInvalid, text)
		require.NotContains(t, err.Error(), "s3cret")
		_, err = reference.ParseDestination(text)
		require.ErrorIs(t, err, reference.ErrInvalidDestination, text)
		require.NotContains(t, err.Error(), "s3cret")
	}
}

func TestDestinationTag(t *testing.T) {
	for text, want := range map[string]string{
		"nginx":                      "",
		"nginx:1.25":                 "1.25",
		"nginx@" + digest256:         "sha256-0123456789ab",
		"nginx@" + digest512:         "sha512-0123456789ab",
		"nginx:1.25@" + digest256:    "1.25",
		"localhost/x:2@" + digest512: "2",
	} {
		r, err := reference.Parse(text)
		require.NoError(t, err, text)
		require.Equal(t, want, r.DestinationTag().String(), text)
	}
}

func TestParseDestination(t *testing.T) {
	for text, want := range map[string]reference.Destination{
		"127.0.0.1:5000":              {Host: "127.0.0.1:5000"},
		"127.0.0.1:5000/":             {Host: "127.0.0.1:5000"},
		"localhost/mirror":            {Host: "localhost", Prefix: "mirror"},
		"Registry.Example.com/a/b_c/": {Host: "registry.example.com", Prefix: "a/b_c"},
		"registry:443/a":              {Host: "registry:443", Prefix: "a"},
		"[::1]:5000/a":                {Host: "[::1]:5000", Prefix: "a"},
		"registry-1.docker.io/me":     {Host: "docker.io", Prefix: "me"},
	} {
		got, err := reference.ParseDestination(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got)
		again, err := reference.ParseDestination(got.String())
		require.NoError(t, err, text)
		require.Equal(t, want, again)
		r, err := reference.Parse(got.Repository("library/nginx"))
		require.NoError(t, err, text)
		require.Equal(t, got.Repository("library/nginx"), r.Repository.String())
	}
}

func TestParseDestinationExplains(t *testing.T) {
	for text, want := range map[string]string{
		"":                                    "expected host[:port][/prefix]",
		"/mirror":                             "is not a host name",
		"https://registry.example.com":        "write host[:port]/prefix without https://",
		"registry":                            "write registry:443 or its full name",
		"registry:0":                          `port "0" is invalid`,
		"registry:65536/a":                    `port "65536" is invalid`,
		"registry:abc":                        `port "abc" is invalid`,
		"bad_host.example":                    `"bad_host.example" is not a host name`,
		"registry.example.com/Mirror":         "lower case",
		"registry.example.com/a//b":           "slash with nothing",
		"registry.example.com/a b":            "white space",
		"registry.example.com/a:1":            "a tag does not belong here",
		"registry.example.com/a@" + digest256: "neither credentials nor a digest",
		"registry.example.com/" + strings.Repeat("a/", 120): "longer than 255",
	} {
		t.Run(text, func(t *testing.T) {
			_, err := reference.ParseDestination(text)
			require.ErrorIs(t, err, reference.ErrInvalidDestination)
			require.ErrorContains(t, err, want)
		})
	}
}

func TestRegistryOf(t *testing.T) {
	for name, want := range map[string]string{
		"registry-1.docker.io": "docker.io", "auth.docker.io": "docker.io", "hub.docker.com": "docker.io",
		"docker.io": "docker.io", "QUAY.io": "quay.io", "127.0.0.1:5000": "127.0.0.1:5000",
	} {
		require.Equal(t, want, reference.RegistryOf(name), name)
	}
}

func TestHosts(t *testing.T) {
	hosts := reference.NewHosts([]string{" Registry-1.docker.io", "QUAY.example.com:5000"})
	for host, want := range map[string]bool{
		"docker.io": true, "index.docker.io": true, "registry-1.docker.io": true, "hub.docker.com": false, "auth.docker.io": false,
		"quay.example.com:5000": true, "Quay.example.com:5000": true, "quay.example.com": false,
	} {
		require.Equal(t, want, hosts.Has(host), host)
	}
}
