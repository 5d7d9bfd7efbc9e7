package web

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// apiAction serves the API requests for a kind of action.
func (s *Server) apiAction(k kind) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		done, err := s.apiDo(k, r)
		s.answer(w, r, struct {
			Outcome string `json:"outcome"`
		}{done}, err)
	}
}

func (s *Server) apiDo(k kind, r *http.Request) (string, error) {
	site, err := s.writable()
	if err != nil {
		return "", err
	}
	given, err := k.given(r)
	if err != nil {
		return "", err
	}
	q, err := k.requestOf(site, r.PathValue("mirror"), given)
	if err != nil {
		return "", err
	}
	return s.do(r, site, q)
}

// term is the type of a field in the body of an API request.
type term int

const (
	isText term = iota
	isNumber
	isTruth
	isTexts // none of them empty
)

// given reads the fields of an action from the path and the body of an API request. They have the
// form of form values.
func (k kind) given(r *http.Request) (url.Values, error) {
	given := url.Values{}
	for _, name := range []string{"run", "plan"} {
		if value := r.PathValue(name); value != "" {
			given.Set(name, value)
		}
	}
	if r.ContentLength == 0 || len(k.terms) == 0 {
		return given, nil
	}
	var body map[string]any
	d := json.NewDecoder(r.Body)
	d.UseNumber()
	err := d.Decode(&body)
	if err == nil && body == nil {
		err = errors.New("expected an object")
	}
	for name, value := range body {
		if err == nil {
			given[name], err = k.texts(name, value)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%w: the body is not as openapi.yaml describes it: %w", errBadRequest, err)
	}
	return given, nil
}

// texts converts the value of a field to form values.
func (k kind) texts(name string, value any) ([]string, error) {
	of, ok := k.terms[name]
	if !ok {
		return nil, fmt.Errorf("unknown field %q", name)
	}
	switch value := value.(type) {
	case string:
		if of == isText {
			return []string{value}, nil
		}
	case json.Number:
		if of == isNumber {
			return []string{value.String()}, nil
		}
	case bool:
		if of == isTruth {
			return []string{strconv.FormatBool(value)}, nil
		}
	case []any:
		if texts, ok := nonEmpty(value); ok && of == isTexts {
			return texts, nil
		}
	}
	return nil, fmt.Errorf("%s: unexpected value %s", name, clean(fmt.Sprint(value)))
}

// nonEmpty returns the values as strings. It reports false if one is empty or not a string.
func nonEmpty(values []any) (texts []string, ok bool) {
	for _, value := range values {
		text, _ := value.(string)
		if strings.TrimSpace(text) == "" {
			return nil, false
		}
		texts = append(texts, text)
	}
	return texts, true
}
