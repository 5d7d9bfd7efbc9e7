package list

import (
	"fmt"
	"strings"

	"gopkg.in/yaml.v3"
)

// example is a short list for messages.
const example = `a list looks like this:

  containers:
    - quay.io/osism/osism
    - docker.io/library/nginx:1.27
    - image: quay.io/ceph/ceph
      tags: {semver: ">=18 <20", limit: 5}`

// foreign returns the name of the other tool whose configuration a document is, or "". Such a list is
// refused, because the same keys mean other things there.
func foreign(root *yaml.Node) string {
	keys := mapping(root)
	has := func(names ...string) bool {
		for _, name := range names {
			if keys[name] == nil {
				return false
			}
		}
		return true
	}
	switch {
	case strings.HasPrefix(scalar(keys["apiVersion"]), "mirror.openshift.io/"), scalar(keys["kind"]) == "ImageSetConfiguration":
		return "oc-mirror"
	case strings.HasPrefix(scalar(keys["apiVersion"]), "content.hauler.cattle.io/"):
		return "Hauler"
	case has("relay", "tasks"), has("tasks") && tasks(keys["tasks"]):
		return "dregsy"
	case isList(keys["sync"]):
		return "regsync"
	case has("services"):
		return "Docker Compose"
	case has("images") && has("auth"), pairs(root):
		return "image-syncer"
	case skopeoSync(root):
		return "skopeo sync"
	}
	return ""
}

// mapping returns the values of a mapping by their key, and nil for any other node.
func mapping(node *yaml.Node) map[string]*yaml.Node {
	if node == nil || resolve(node).Kind != yaml.MappingNode {
		return nil
	}
	node = resolve(node)
	values := map[string]*yaml.Node{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		values[resolve(node.Content[i]).Value] = resolve(node.Content[i+1])
	}
	return values
}

// scalar returns the text of a scalar, or "" for any other node.
func scalar(node *yaml.Node) string {
	if node == nil || node.Kind != yaml.ScalarNode {
		return ""
	}
	return node.Value
}

func isList(node *yaml.Node) bool { return node != nil && node.Kind == yaml.SequenceNode }

// tasks reports whether a node has tasks of dregsy, which have the key mappings.
func tasks(node *yaml.Node) bool {
	return isList(node) && len(node.Content) > 0 && mapping(resolve(node.Content[0]))["mappings"] != nil
}

// pairs reports whether every key and every value names an image. image-syncer maps sources to
// destinations that way.
func pairs(root *yaml.Node) bool {
	all := mapping(root)
	for key, value := range all {
		target := value
		if isList(value) && len(value.Content) > 0 {
			target = resolve(value.Content[0])
		}
		if !hasHost(key) || !hasHost(scalar(target)) {
			return false
		}
	}
	return len(all) > 0
}

// hasHost reports whether a name has a host and a path.
func hasHost(name string) bool {
	host, path, found := strings.Cut(name, "/")
	return found && path != "" && strings.ContainsAny(host, ".:")
}

// skopeoSync reports whether every value has a key of skopeo-sync(1).
func skopeoSync(root *yaml.Node) bool {
	all := mapping(root)
	for _, registry := range all {
		known := false
		for key := range mapping(registry) {
			switch key {
			case "images", "images-by-tag-regex", "images-by-semver":
				known = true
			}
		}
		if !known {
			return false
		}
	}
	return len(all) > 0
}

// notOurs returns the problem of a document without the key containers.
func notOurs(root *yaml.Node, near string) problem {
	if tool := foreign(root); tool != "" {
		return problem{Message: fmt.Sprintf("this is a configuration of %s; %s", tool, example)}
	}
	return problem{Message: fmt.Sprintf("the key %q is missing%s; %s", key, near, example)}
}
